"""Recordings of a healthy machine in, releases out."""

# What a command needs beyond the standard library is imported in its `run`, so that help is quick
# and a small command stays small.

from training.fleet import commands as fleet

SUMMARY = "train, judge and release models"

_NAMES = ("data", "train", "evaluate", "field", "compare", "quantize", "reproduce", "synthesize")

COMMANDS = {
    **{name: f"training.commands.{name}" for name in _NAMES},
    "import": "training.commands.import_",
    "release": "training.commands.release",
    # The operator's are listed here as well, as they always were.
    **{name: f"training.fleet.commands.{name}" for name in fleet.COMMANDS},
}

REQUIREMENTS = "training"
INTERRUPTED = "interrupted; nothing was written"
