"""Machine: what one machine sounds like beside what it should."""

from dataclasses import replace

from collector.grafana import looks
from collector.grafana.boards.choices import ONE_NODE, links_from
from collector.grafana.influxql import CHOSEN, EACH_INTERVAL, OF_NODES_LATELY
from collector.grafana.panels import (
    HOURLY_SOURCE,
    Board,
    Column,
    Query,
    annotation,
    lines,
    states,
    table,
    value,
)


def _over_time(expression: str, *, fill: str = "null") -> str:
    return f'SELECT {expression} FROM "window" WHERE {CHOSEN} {EACH_INTERVAL} fill({fill})'


_LAST_WINDOW = f'FROM "window" WHERE {CHOSEN}'
_LAST_STATE = f'FROM "state" WHERE {OF_NODES_LATELY}'

_HOURS = f'FROM "window_hour" WHERE {CHOSEN}'

# Of hourly figures, which are there when the windows are long gone.
_MONTHS = (
    lines(
        "Months",
        "Score of each hour, its mean and its highest, over half a year or the dates that are"
        " chosen; 1 is the threshold. A machine that wears shows here.",
        Query(
            f'SELECT max("score_max") {_HOURS} {EACH_INTERVAL} fill(null)',
            alias="highest",
            colour=looks.ORANGE,
        ),
        Query(
            f'SELECT mean("score_mean") {_HOURS} {EACH_INTERVAL} fill(null)',
            alias="mean",
            colour=looks.BLUE,
        ),
        unit="none",
        axis="score",
        low=0,
        limit=1,
    ),
    lines(
        "Months, flagged",
        "Share of the scored windows, over the same time.",
        Query(
            f'SELECT sum("flagged") / sum("scored") AS "share" {_HOURS} AND "scored" > 0'
            f" {EACH_INTERVAL} fill(null)",
            alias="flagged",
            colour=looks.VERMILLION,
        ),
        unit="percentunit",
        axis="flagged windows",
        low=0,
        high=1,
    ),
)

BOARD = Board(
    uid="earshot-machine",
    title="earshot: machine",
    description="Score, threshold and episodes of one machine.",
    variables=(ONE_NODE,),
    panels=(
        value(
            "Machine",
            "The last that was heard, in the chosen time.",
            f'SELECT last("state_code") AS "machine" {_LAST_WINDOW}',
            mappings=looks.words(looks.MACHINE),
        ),
        value(
            "Score now",
            "Of the last scored window; above 1 it is flagged.",
            f'SELECT last("score") AS "score" {_LAST_WINDOW}',
            bad_from=1.0,
        ),
        value(
            "Flagged",
            "Share of the scored windows in the chosen time.",
            f'SELECT mean("anomaly") AS "flagged" {_LAST_WINDOW}',
            unit="percentunit",
            bad_from=0.05,
        ),
        value(
            "Calibration",
            "How far the node is with learning this place.",
            f'SELECT last("calibration_code") AS "calibration" {_LAST_STATE}',
            mappings=looks.words(looks.CALIBRATION),
        ),
        value(
            "Threshold from",
            "Release: from the training recordings. Site: from calibration here. Override: an"
            " order.",
            f'SELECT last("threshold_source") AS "threshold" {_LAST_STATE}',
            text="source",
        ),
        value(
            "Model",
            "What the node said last that it scores with.",
            f'SELECT last("model") AS "model" {_LAST_STATE}',
            text="model",
        ),
        lines(
            "Statistic and threshold",
            "What the model leaves over of the sound, and the threshold in force; what lies"
            " between is the margin. Vertical marks are changes of the model.",
            Query(_over_time('mean("threshold")'), alias="threshold", colour=looks.VERMILLION),
            Query(_over_time('mean("statistic")'), alias="statistic", colour=looks.BLUE),
            unit="none",
            axis="statistic",
            width=24,
            height=9,
            interval="10s",
            between=("threshold", "statistic"),
        ),
        lines(
            "Score",
            "Statistic / threshold; 1 is the threshold, whichever it was. Highest, mean and lowest"
            " of each interval.",
            Query(_over_time('max("score")'), alias="highest", colour=looks.ORANGE),
            Query(_over_time('mean("score")'), alias="mean", colour=looks.BLUE),
            Query(_over_time('min("score")'), alias="lowest", colour=looks.SKY_BLUE),
            unit="none",
            axis="score",
            low=0,
            limit=1,
            interval="10s",
            between=("highest", "lowest"),
        ),
        lines(
            "Flagged windows",
            "Share of the scored windows of each interval.",
            Query(_over_time('mean("anomaly")'), alias="flagged", colour=looks.VERMILLION),
            unit="percentunit",
            axis="flagged windows",
            low=0,
            high=1,
            interval="10s",
        ),
        states(
            "State",
            "Of the machine, as each window carries it. Gaps: no windows.",
            Query(_over_time('last("state_code")'), alias="machine"),
            looks.words(looks.MACHINE),
            height=6,
            interval="10s",
        ),
        lines(
            "Windows without a score",
            "Sound that could not be judged: the node's page says why.",
            Query(
                _over_time('count("seq") - count("score")', fill="0"),
                alias="without a score",
                colour=looks.PURPLE,
            ),
            unit="short",
            axis="windows",
            height=6,
            bars=True,
            low=0,
            interval="10s",
        ),
        lines(
            "Level",
            "Loudness of the sound; 0 is a full-scale square wave. A machine that stops shows"
            " here.",
            Query(_over_time('max("level_dbfs")'), alias="loudest", colour=looks.SKY_BLUE),
            Query(_over_time('mean("level_dbfs")'), alias="mean", colour=looks.BLUE),
            unit="dB",
            axis="dB of full scale",
            interval="10s",
        ),
        table(
            "Top bands",
            "Frequencies, in Hz, that carried most of the error, the strongest first: where to"
            " listen.",
            Query(
                'SELECT "bands_hz" AS "bands", "peak_score" AS "peak score", "phase" FROM "event"'
                f" WHERE {CHOSEN} ORDER BY time DESC LIMIT 20",
                time_as="time",
            ),
            columns=[Column("peak score", decimals=2)],
            order=["time", "bands", "peak score", "phase"],
            width=12,
        ),
        *(replace(panel, source=HOURLY_SOURCE, span="180d", interval="1h") for panel in _MONTHS),
        table(
            "Episodes",
            "Each time the machine sounded wrong: when it began, how it went on, how it ended.",
            Query(
                'SELECT "episode_id" AS "episode", "phase", "state_code" AS "machine", "rule",'
                ' "peak_score" AS "peak score", "windows", "bands_hz" AS "bands", "model"'
                f' FROM "event" WHERE {CHOSEN} ORDER BY time DESC LIMIT 200',
                time_as="time",
            ),
            columns=[
                Column("machine", mappings=looks.words(looks.MACHINE)),
                Column("peak score", decimals=2),
            ],
            order=["time", "episode", "phase", "machine"],
        ),
    ),
    links=links_from("Machine"),
    annotations=(
        annotation(
            "Model changes",
            'SELECT "running", "phase" FROM "update"'
            f" WHERE {CHOSEN} AND (\"phase\" = 'committed' OR \"phase\" = 'rolled_back') LIMIT 100",
            colour=looks.PURPLE,
            text="running",
            tags="phase",
        ),
        annotation(
            "Episodes",
            'SELECT "episode_id", "phase" FROM "event"'
            f" WHERE {CHOSEN} AND (\"phase\" = 'opened' OR \"phase\" = 'closed') LIMIT 100",
            colour=looks.VERMILLION,
            text="episode_id",
            tags="phase",
        ),
    ),
)
