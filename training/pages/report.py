"""What a training has made, as one page for those who must decide whether to trust it.

The page is a single file of HTML, CSS and SVG: it needs no network and no script, and the same
outcome gives the same bytes. Nothing is measured here but the residual of two windows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.pages.blocks import (
    Section,
    page_html,
)
from training.pages.making_sections import (
    data_section,
    losses_section,
    models_section,
    recipe_section,
    seeds_section,
)
from training.pages.quality_sections import (
    alarms_section,
    figures_section,
    held_out_section,
    roc_section,
    room_noise_section,
    scores_section,
    threshold_section,
)
from training.pages.results import Environment
from training.pages.shown_windows import ShownWindow, windows_section
from training.pages.verdict import make_header
from training.sound.dataset import Dataset

if TYPE_CHECKING:
    from training.detector.outcome import Outcome


def report_html(
    outcome: "Outcome",
    dataset: Dataset,
    *,
    windows: Sequence[ShownWindow],
    notes: Sequence[str],
    environment: Environment,
) -> str:
    """Render the page of a training.

    Args:
        outcome: of the training.
        dataset: that it was trained and judged on.
        windows: least anomalous first; of test clips, or of held-out ones where there are none.
        notes: warnings that the training gave.
        environment: where it ran.
    """
    report = outcome.report
    sections: list[Section | None] = []
    if report is not None:
        sections += [figures_section(report), scores_section(report), roc_section(report)]
    sections += [threshold_section(outcome), held_out_section(outcome)]
    if report is not None:
        sections += [alarms_section(report), room_noise_section(report.room_noise)]
    sections += [
        windows_section(windows, outcome),
        losses_section(outcome),
        models_section(outcome, environment),
        seeds_section(outcome),
        data_section(outcome, dataset),
        recipe_section(outcome, environment),
    ]
    return page_html(
        f"{outcome.manifest.label}: what it can do and what not",
        make_header(outcome, dataset, notes),
        [section for section in sections if section is not None],
    )
