"""What goes wrong with a source of sound."""

from typing import Literal

from contract.errors import EarshotError

SourceFault = Literal[
    "no_portaudio",
    "no_device",
    "busy",
    "bad_format",
    "stopped",
    "died",
    "malformed",
    "no_answer",
    "no_sound",
]
"""Why there is no sound. The first five come from the capture program (`node.sound.capture`); it
`died` without a word, sent `malformed` records, or gave `no_answer` in time. `no_sound`:
nothing to play."""


class SourceError(EarshotError):
    """A source that gives no sound any more: end it, wait, and open a new one."""

    def __init__(self, reason: SourceFault, text: str) -> None:
        self.reason: SourceFault = reason
        super().__init__(text)
