"""A recipe: everything that makes one detector another, in one small TOML file.

Those that come with earshot lie in `recipes/`; a path to a file of one's own does as well.
"""

import re
from codecs import BOM_UTF8
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from contract.errors import FeatureError
from contract.feature_params import FeatureParams
from contract.topics import RELEASE_NAME_PATTERN
from training.errors import RecipeError

NetworkName = Literal["reference", "repaired", "conv", "profile", "dense"]
Quantisation = Literal["float32", "float16", "dynamic", "int8"]
QUANTISATIONS: tuple[Quantisation, ...] = ("float32", "float16", "dynamic", "int8")
DEFAULT_RECIPE = "profile"

_FOLDER = Path(__file__).with_suffix("")


class ModelRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network and its training: Adam on the mean squared error."""

    network: NetworkName
    error: Literal["mse", "time_mean_mse"]
    """How the residual becomes the error; see `contract.release.Model.error`."""
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)]

    def __post_init__(self) -> None:
        if self.error == "time_mean_mse" and self.network in ("profile", "dense"):
            raise ValueError(f"time_mean_mse needs a residual over time, {self.network} has none")


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All hyper-parameters of a detector."""

    name: str
    description: Annotated[str, msgspec.Meta(max_length=150)]
    windows: Literal["first", "all"]
    """Which windows of a clip are trained on and judged by; a node always scores all."""
    clip_score: Literal["mean", "top10", "max"]
    """How the windows of a clip make its score."""
    quantisation: Quantisation
    """How the models of the release are quantised."""
    features: FeatureParams
    models: Annotated[tuple[ModelRecipe, ...], msgspec.Meta(min_length=1, max_length=4)]
    """Several make one statistic; see `contract.release.Manifest.statistic`."""

    def __post_init__(self) -> None:
        # Files of a release and losses are named by it.
        networks = [model.network for model in self.models]
        if len(set(networks)) < len(networks):
            raise ValueError(f"expected each network once, got {', '.join(networks)}")


def recipe_names() -> tuple[str, ...]:
    """Recipes that come with earshot."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def read_recipe(name_or_path: str) -> Recipe:
    """A recipe by its name, or from a file.

    Raises:
        RecipeError: there is none, or it is not one.
    """
    own = name_or_path.endswith(".toml")
    path = Path(name_or_path) if own else _FOLDER / f"{name_or_path}.toml"
    if not own and name_or_path not in recipe_names():
        raise RecipeError(
            f"Expected a recipe out of {', '.join(recipe_names())}, or the path of a .toml file;"
            f" got {name_or_path!r}"
        )
    if re.match(RELEASE_NAME_PATTERN, path.stem) is None:
        raise RecipeError(f"{path}: expected a file name of lower-case letters, digits and hyphens")
    try:
        found = msgspec.toml.decode(path.read_bytes().removeprefix(BOM_UTF8))
        return msgspec.convert({**found, "name": path.stem}, Recipe)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read: {error.strerror}") from error
    except (msgspec.MsgspecError, FeatureError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected a recipe: {error}") from error


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with another number of epochs for every model."""
    models = tuple(msgspec.structs.replace(model, epochs=epochs) for model in recipe.models)
    return msgspec.structs.replace(recipe, models=models)
