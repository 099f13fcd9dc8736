"""Recordings of a healthy machine in, releases out.

What a command needs beyond the standard library is imported in its `run`, so that help is quick and
a small command stays small. What an operator does with releases is in `training.fleet.commands`.
"""

SUMMARY = "train, judge and release models"

COMMANDS = (
    "data",
    "train",
    "evaluate",
    "field",
    "compare",
    "quantize",
    "reproduce",
    "synthesize",
    "import",
    "release",
)

REQUIREMENTS = "training"
INTERRUPTED = "interrupted; nothing was written"
