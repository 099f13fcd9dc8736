"""The rows that a training leaves for comparison."""

import csv
import io
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from node.bench.result_row import COLUMNS, checkout_hash
from tests.training.pages.test_report import ENVIRONMENT, SEED, judged, outcome_of
from training.pages.results import find_environment, results_csv

REFERENCE_COLUMNS = (
    "timestamp, git_hash, platform, device, cpu/npu/gpu, dataset, split, seed, model_name,"
    " bundle_size_mb, model_size_kb, params_millions, latency_ms_p50, latency_ms_p95, ttfi_ms, fps,"
    " peak_ram_mb, bandwidth_mb, power_w, metric_name, metric_value, notes"
)
METRICS = ("auc", "pauc", "official", "f1", "fpr", "tpr")


def read(text: str) -> list[dict[str, str]]:
    """The rows, by column."""
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_columns_are_the_reference_designs() -> None:
    """Names and order are those of the table that others have filled."""
    assert ", ".join(COLUMNS) == REFERENCE_COLUMNS
    head = results_csv(outcome_of(judged()), ENVIRONMENT).splitlines()[0]
    assert head == ",".join(COLUMNS)


def test_each_group_has_each_figure() -> None:
    """All clips and each domain have a row for every figure, with the report's value."""
    report = judged()

    rows = read(results_csv(outcome_of(report), ENVIRONMENT))

    assert [(row["split"], row["metric_name"]) for row in rows] == [
        (split, metric) for split in ("test", "source_test", "target_test") for metric in METRICS
    ]
    found = {(row["split"], row["metric_name"]): row for row in rows}
    release = report.thresholds["release"]
    for (split, metric), value in {
        ("test", "official"): report.official,
        ("test", "auc"): report.overall.auc,
        ("test", "f1"): release.overall.f1,
        ("source_test", "pauc"): report.domains["source"].pauc,
        ("target_test", "fpr"): release.domains["target"].fpr,
        ("target_test", "tpr"): release.domains["target"].tpr,
    }.items():
        assert value is not None
        assert float(found[split, metric]["metric_value"]) == pytest.approx(value, abs=1e-6)
    for row in rows:
        flags_all = f"flag-all F1 {release.overall.flag_all_f1:.6f}" in row["notes"]
        assert flags_all == (row["metric_name"] == "f1")


def test_rows_say_what_was_measured_and_where() -> None:
    """Size, parameters and latency are the released variant's."""
    outcome = outcome_of(judged())
    report = outcome.report
    assert report is not None
    (variant,) = [found for found in report.variants.values() if found.released]
    latency = variant.runtimes["ai-edge-litert"].latency_ms
    assert latency is not None

    row = read(results_csv(outcome, ENVIRONMENT))[0]

    created = datetime.fromisoformat(row["timestamp"])
    assert created.tzinfo == UTC
    assert abs(created.timestamp() - outcome.manifest.created_us / 1e6) <= 1
    assert row["git_hash"] == ENVIRONMENT.git_hash
    assert row["platform"] == ENVIRONMENT.platform
    assert row["device"] == ENVIRONMENT.device
    assert row["cpu/npu/gpu"] == "cpu"
    assert row["dataset"] == outcome.manifest.training.data
    assert row["seed"] == str(SEED)
    assert row["model_name"] == outcome.manifest.label
    assert float(row["model_size_kb"]) * 1000 == outcome.manifest.models_bytes
    assert float(row["latency_ms_p50"]) == latency.p50
    assert float(row["latency_ms_p95"]) == latency.p95


def test_what_was_not_measured_is_empty() -> None:
    """An unknown power, memory or bundle size is an empty cell, never a zero."""
    outcome = outcome_of(judged())
    models = tuple(
        msgspec.structs.replace(model, parameters=None) for model in outcome.manifest.models
    )
    unknown = msgspec.structs.replace(
        outcome, manifest=msgspec.structs.replace(outcome.manifest, models=models)
    )
    environment = msgspec.structs.replace(ENVIRONMENT, git_hash=None)

    for row in read(results_csv(unknown, environment)):
        for name in (
            "git_hash",
            "bundle_size_mb",
            "params_millions",
            "ttfi_ms",
            "fps",
            "peak_ram_mb",
            "bandwidth_mb",
            "power_w",
        ):
            assert row[name] == ""


def test_without_test_clips_one_row_has_no_figure() -> None:
    """Size and origin are known without faults; a figure is not."""
    (row,) = read(results_csv(outcome_of(None), ENVIRONMENT))

    assert row["metric_name"] == row["metric_value"] == row["split"] == ""
    assert row["latency_ms_p50"] == ""
    assert row["notes"].startswith("no labelled test clips; ")
    assert float(row["model_size_kb"]) > 0


def test_one_domain_has_no_rows_of_another() -> None:
    """A data set without a target domain says nothing of it."""
    rows = read(results_csv(outcome_of(judged("fan", ("source",))), ENVIRONMENT))

    assert {row["split"] for row in rows} == {"test", "source_test"}


def test_awkward_names_come_back_whole() -> None:
    """A comma, a quote and a line break in a folder's name break no row."""
    outcome = outcome_of(judged())
    name = 'press 1, "old"\nhall'
    training = msgspec.structs.replace(outcome.manifest.training, data=name)
    manifest = msgspec.structs.replace(outcome.manifest, training=training)

    rows = read(results_csv(msgspec.structs.replace(outcome, manifest=manifest), ENVIRONMENT))

    assert len(rows) == 18
    assert {row["dataset"] for row in rows} == {name}


def test_environment_names_no_host_and_no_folder() -> None:
    """Rows may be shared: the computer's kind is in them, its name is not."""
    found = find_environment()

    told = f"{found.platform} {found.device}"
    assert platform.machine() in found.platform
    assert found.device
    assert "/home" not in told
    assert str(Path(__file__).parents[3]) not in told
    assert found.versions["Python"] == platform.python_version()
    assert "numpy" in found.versions


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_hash_is_that_of_the_package_s_own_checkout(tmp_path: Path) -> None:
    """A tracked package has its commit, a changed one says so, and a foreign checkout is not taken.

    The last is a package that was installed into a virtual environment inside another project.
    """
    own, foreign = tmp_path / "own", tmp_path / "env" / "package"
    for package in (own, foreign):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    assert checkout_hash(own) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "own")
    git("commit", "--quiet", "--no-gpg-sign", "--message", "first")
    assert checkout_hash(own) == git("rev-parse", "--short=12", "HEAD")
    assert checkout_hash(foreign) is None

    (own / "__init__.py").write_text("changed = True\n")
    assert checkout_hash(own) == git("rev-parse", "--short=12", "HEAD") + "-dirty"
