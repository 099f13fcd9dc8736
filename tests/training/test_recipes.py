"""Recipes: those that come with earshot, and one's own."""

from pathlib import Path

import pytest

from contract.feature_params import FeatureParams
from training.errors import RecipeError
from training.recipes import DEFAULT_RECIPE, ModelRecipe, read_recipe, recipe_names, with_epochs
from training.runs.train import HOP_SECONDS

OWN = """\
description = "mine"
windows = "all"
clip_score = "max"
quantisation = "int8"

[features]
kind = "mfcc"
frames = 63

[[models]]
network = "profile"
error = "mse"
epochs = 5
batch_size = 8
learning_rate = 0.01
"""
SECOND_PROFILE = OWN[OWN.index("[[models]]") :]


def test_every_bundled_recipe_reads() -> None:
    """Each has its file's name and at least one model, and the default is among them."""
    names = recipe_names()

    assert set(names) == {"conv", "dense", "duo", "profile", "reference", "repaired"}
    assert DEFAULT_RECIPE in names
    for name in names:
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.models
        assert recipe.features.window_samples >= HOP_SECONDS * recipe.features.sample_rate_hz


def test_reference_is_the_reference_design() -> None:
    """Its features, windows and training are the published design's, number by number."""
    recipe = read_recipe("reference")

    assert recipe.features == FeatureParams(
        kind="mfcc",
        sample_rate_hz=16_000,
        window_samples=32_000,
        n_fft=2048,
        frame_hop_samples=512,
        n_mels=128,
        n_mfcc=40,
        top_db=80.0,
        frames=64,
    )
    assert (recipe.windows, recipe.clip_score, recipe.quantisation) == ("first", "mean", "int8")
    assert recipe.models == (
        ModelRecipe(
            network="reference", error="mse", epochs=40, batch_size=16, learning_rate=0.001
        ),
    )


def test_dense_is_the_official_baseline() -> None:
    """128 bands of log-mel, FFT of 1024, hop 512; 100 epochs of Adam in batches of 512."""
    recipe = read_recipe("dense")
    features, (model,) = recipe.features, recipe.models

    assert (features.kind, features.n_mels, features.n_fft) == ("logmel", 128, 1024)
    assert features.frame_hop_samples == 512
    assert (model.epochs, model.batch_size, model.learning_rate) == (100, 512, 0.001)


def test_duo_is_conv_and_profile() -> None:
    """The default has the models of the two recipes that it names, with their settings."""
    duo = read_recipe("duo")

    assert duo.models == read_recipe("conv").models + read_recipe("profile").models
    assert duo.features == read_recipe("conv").features == read_recipe("profile").features


def test_own_recipe_from_a_file(tmp_path: Path) -> None:
    """A path that ends in .toml is read, with an editor's byte-order mark, and named after it."""
    (tmp_path / "my-own.toml").write_text(OWN, "utf-8-sig")

    recipe = read_recipe(str(tmp_path / "my-own.toml"))

    assert recipe.name == "my-own"
    assert (recipe.clip_score, recipe.models[0].epochs) == ("max", 5)
    assert recipe.features == FeatureParams(frames=63)


def test_two_models_of_an_own_recipe(tmp_path: Path) -> None:
    """Several networks may be combined as long as they differ."""
    (tmp_path / "two.toml").write_text(
        OWN + SECOND_PROFILE.replace('"profile"', '"conv"').replace('"mse"', '"time_mean_mse"')
    )

    recipe = read_recipe(str(tmp_path / "two.toml"))

    assert [model.network for model in recipe.models] == ["profile", "conv"]


def test_other_epochs() -> None:
    """All models get the number of epochs that is asked for, and keep the rest."""
    changed = with_epochs(read_recipe("duo"), 3)

    assert [model.epochs for model in changed.models] == [3, 3]
    assert with_epochs(changed, 20).models[0] == read_recipe("duo").models[0]


@pytest.mark.parametrize("name", ["duet", "", "../recipes/duo", "Duo"])
def test_unknown_name(name: str) -> None:
    """A name that is none of ours is told with those that there are."""
    with pytest.raises(RecipeError, match=r"conv, dense, duo, .*; got '"):
        read_recipe(name)


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(RecipeError, match=r"none\.toml: cannot read: No such file"):
        read_recipe(str(tmp_path / "none.toml"))


def test_file_name_that_no_release_could_carry(tmp_path: Path) -> None:
    """A recipe's name goes into manifests, so its file's name has to be a plain one."""
    (tmp_path / "My Own.toml").write_text(OWN)

    with pytest.raises(RecipeError, match=r"My Own\.toml: expected a file name of lower-case"):
        read_recipe(str(tmp_path / "My Own.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"profile"', '"transformer"', "transformer"),
        ('"all"', '"some"', "some"),
        ('"max"', '"median"', "median"),
        ('"int8"', '"int4"', "int4"),
        ('error = "mse"', 'error = "mae"', "mae"),
        ("epochs = 5", "epochs = 0", "epochs"),
        ("epochs = 5", "epochs = 1.5", "epochs"),
        ("batch_size = 8", "batch_size = 0", "batch_size"),
        ("learning_rate = 0.01", "learning_rate = 0", "learning_rate"),
        ("learning_rate = 0.01", "learning_rate = nan", "learning_rate"),
        ("batch_size = 8", "batch_size = 8\nmomentum = 0.9", "momentum"),
        ('windows = "all"', "", "windows"),
        ("frames = 63", "frames = 62", "frames must be 63 to 65536, got 62"),
        ("frames = 63", "frames = 63\nn_mfcc = 200", "n_mfcc must be"),
        (SECOND_PROFILE, "models = []", "expected a recipe"),
        ('"mine"', '"mine', "expected a recipe"),
        (OWN, OWN + SECOND_PROFILE, "expected each network once"),
        ('error = "mse"', 'error = "time_mean_mse"', "time_mean_mse"),
        ('"profile"\nerror = "mse"', '"dense"\nerror = "time_mean_mse"', "time_mean_mse"),
    ],
)
def test_not_a_recipe(tmp_path: Path, old: str, new: str, message: str) -> None:
    """What is wrong with a file is one line that names the file and the place."""
    (tmp_path / "own.toml").write_text(OWN.replace(old, new))

    with pytest.raises(RecipeError) as caught:
        read_recipe(str(tmp_path / "own.toml"))

    assert str(tmp_path / "own.toml") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_text(tmp_path: Path) -> None:
    """Bytes that are no text are no recipe."""
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(RecipeError, match="expected a recipe"):
        read_recipe(str(tmp_path / "own.toml"))
