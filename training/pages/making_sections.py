"""What a report says of how a release was made, and how to make it again."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from training.judge.evaluation_report import EvaluationReport
from training.pages import charts
from training.pages.blocks import (
    Block,
    Code,
    Drawing,
    Drawings,
    Facts,
    Section,
    Subheading,
    Table,
    section,
)
from training.pages.quality_sections import SHOWN_SESSIONS
from training.pages.results import Environment
from training.pages.wording import CHANCE, count_text, figure_text, spread_text
from training.sound.dataset import Dataset

if TYPE_CHECKING:
    from training.detector.autoencoders import Epoch
    from training.detector.outcome import Outcome


def losses_section(outcome: "Outcome") -> Section | None:
    """How the losses went; None where no epochs are known."""
    plots = [_loss(network, epochs) for network, epochs in outcome.losses.items() if epochs]
    if not plots:
        return None
    return section(
        "How the training went",
        "Mean squared error after each pass over the data. Held-out sound that stays far above the"
        " trained, or climbs, means that the network learned the recordings by heart.",
        Drawings(plots),
    )


def _loss(network: str, epochs: Sequence["Epoch"]) -> Drawing:
    last = epochs[-1]
    return charts.curves(
        network,
        [
            (f"trained {last.train_loss:.3g}", [epoch.train_loss for epoch in epochs]),
            (f"held out {last.held_out_loss:.3g}", [epoch.held_out_loss for epoch in epochs]),
        ],
        what="epoch",
        first=1,
        told=f"Loss of {network}: {last.train_loss:.4g} trained, {last.held_out_loss:.4g} held out"
        f" after {count_text(len(epochs), 'epoch')}",
    )


def models_section(outcome: "Outcome", environment: Environment) -> Section | None:
    """Size, speed and libraries, of the release and its variants."""
    manifest, report = outcome.manifest, outcome.report
    rows = [
        {
            "file": model.file,
            "kB": f"{manifest.file(model.file).size_bytes / 1e3:.1f}",
            "parameters": "-" if model.parameters is None else str(model.parameters),
            "quantisation": model.quantisation or "-",
            "runs in": ", ".join(model.runtimes) or "-",
        }
        for model in manifest.models
    ]
    return section(
        "Size, speed, and what can run it",
        Table("Models of the release", rows),
        *([] if report is None or not report.variants else _variants(report, environment)),
    )


def _variants(report: EvaluationReport, environment: Environment) -> list[Block]:
    rows = []
    reasons: dict[str, list[str]] = {}
    for name, variant in report.variants.items():
        for library, trial in variant.runtimes.items():
            known = f"{library} {trial.version or ''}".strip()
            latency, difference = trial.latency_ms, trial.auc_difference
            if trial.outcome != "ran":
                known += f": {trial.outcome}"
                reasons.setdefault(f"{known}: {trial.reason or 'no reason given'}", []).append(name)
            rows.append(
                {
                    "": f"{name} (released)" if variant.released else name,
                    "kB": f"{variant.size_bytes / 1e3:.1f}",
                    "library": known,
                    "AUC": figure_text(trial.auc),
                    "to float32": "-" if difference is None else f"{difference:+.4f}",
                    "official": figure_text(trial.official),
                    "p50 ms": figure_text(None if latency is None else latency.p50),
                    "p95 ms": figure_text(None if latency is None else latency.p95),
                }
            )
    time = f"time from features to statistic on {environment.device}, one thread"
    operators = {
        name: ", ".join(variant.operators) or "not known"
        for name, variant in report.variants.items()
    }
    return [
        Table(f"Variants; {time}", rows),
        *(f"{why} ({', '.join(names)})" for why, names in reasons.items()),
        Subheading("Operators"),
        Facts(operators),
    ]


def seeds_section(outcome: "Outcome") -> Section | None:
    """The same training with other seeds; None where nothing was tested."""
    seeds = outcome.seeds
    if seeds is None:
        return None
    if seeds.official.count < 2:
        return section(
            "Other seeds",
            "Trained with one seed only: how much the first random numbers matter is not known."
            " --seeds 5 shows it.",
        )
    columns = ("seed", "official", "AUC", "pAUC")
    rows = [("mean ± sd", *map(spread_text, (seeds.official, seeds.auc, seeds.pauc)))]
    for each in seeds.each:
        found = each.figures
        rows.append((str(each.seed), *map(figure_text, (found.official, found.auc, found.pauc))))
    return section(
        "Other seeds",
        f"The same training with {seeds.official.count} seeds; the first is released. Chance is"
        f" {CHANCE}; the yardsticks above need no seed.",
        Table(
            "Figures by seed",
            [dict(zip(columns, row, strict=True)) for row in rows],
            own_first=True,
        ),
    )


def data_section(outcome: "Outcome", dataset: Dataset) -> Section | None:
    """What was recorded, how it was split, and the features."""
    params, sessions = outcome.manifest.features, outcome.sessions
    named = f"{len(sessions)}: {', '.join(sessions[:SHOWN_SESSIONS])}"
    if len(sessions) > SHOWN_SESSIONS:
        named += " …"
    windows = "the first" if outcome.recipe.windows == "first" else "all"
    facts = {
        "Data set": outcome.manifest.training.data,
        "Machine": dataset.machine,
        "Layout of the folder": dataset.layout,
        "Split": f"{outcome.train_files} recordings ({outcome.train_windows} windows) to train on,"
        f" {outcome.held_out_files} held out to choose the threshold from, by recording",
        "Sessions": named if sessions else "the names do not say",
        "Windows": f"{params.window_us / 1e6:g} s, every {outcome.manifest.hop_us / 1e6:g} s;"
        f" {windows} of a recording; digitally silent ones left out",
        "Score of a recording": f"by {outcome.recipe.clip_score} of its windows",
    }
    if dataset.unlabelled:
        facts["Not used"] = f"{len(dataset.unlabelled)} test recordings without a label"
    clips = (*dataset.train, *dataset.test)
    counts = Counter((clip.section, clip.domain, clip.split, clip.label) for clip in clips)
    found = [
        {
            "section": section,
            "domain": domain,
            "to train": str(counts[section, domain, "train", "normal"]),
            "test, normal": str(counts[section, domain, "test", "normal"]),
            "test, anomalous": str(counts[section, domain, "test", "anomaly"]),
        }
        for section, domain in sorted({(clip.section, clip.domain) for clip in clips})
    ]
    features = [
        {"parameter": name, "value": str(value)}
        for name, value in msgspec.structs.asdict(params).items()
    ]
    return section(
        "The data", Facts(facts), Table("Recordings found", found), Table("Features", features)
    )


def recipe_section(outcome: "Outcome", environment: Environment) -> Section | None:
    """The command, the recipe, and where and by what it ran."""
    recipe, manifest = outcome.recipe, outcome.manifest
    facts = {
        "Recipe": f"{recipe.name}: {recipe.description}",
        "Statistic": manifest.statistic,
        "Seed": str(manifest.training.seed),
        "Quantisation": recipe.quantisation,
        "Windows, clip score": f"{recipe.windows}, {recipe.clip_score}",
        "Versions": ", ".join(f"{name} {number}" for name, number in environment.versions.items()),
        "Commit": environment.git_hash or "not known",
        "Computer": f"{environment.device}; {environment.platform}",
        "Seconds": ", ".join(f"{what} {took:.1f}" for what, took in outcome.seconds.items()),
    }
    networks = [
        {
            "network": model.network,
            "what counts": model.error,
            "epochs": str(model.epochs),
            "batch": str(model.batch_size),
            "learning rate": f"{model.learning_rate:g}",
        }
        for model in recipe.models
    ]
    return section(
        "How to make it again",
        Code(manifest.training.command),
        Facts(facts),
        Table("Networks: Adam on the mean squared error", networks),
    )
