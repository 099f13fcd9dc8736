"""Colours and words of states, the same on every page.

Colours are those of Okabe and Ito (2008), which people with any of the common colour blindnesses
tell apart; and no state is told by its colour alone: each has its word.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from contract.states import (
    CODES,
    BootEnd,
    CalibrationPhase,
    Clock,
    MachineState,
    MicrophoneState,
    Presence,
    UpdatePhase,
)

ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#7F7F7F"
"""In place of Okabe and Ito's black, which a dark page swallows."""

MACHINE = {
    MachineState.UNKNOWN: GREY,
    MachineState.STOPPED: BLUE,
    MachineState.LEARNING: SKY_BLUE,
    MachineState.NORMAL: GREEN,
    MachineState.WARNING: ORANGE,
    MachineState.ALARM: VERMILLION,
}
MICROPHONE = {
    state: GREEN if state is MicrophoneState.OK else PURPLE for state in MicrophoneState
} | {MicrophoneState.UNKNOWN: GREY}
PRESENCE = {Presence.OFFLINE: GREY, Presence.ONLINE: GREEN, Presence.UNKNOWN: YELLOW}
CLOCK = {
    Clock.UNSYNCED: VERMILLION,
    Clock.SYNCED: GREEN,
    Clock.SIMULATED: SKY_BLUE,
    Clock.UNKNOWN: GREY,
}
UPDATE = {
    UpdatePhase.IDLE: GREY,
    UpdatePhase.DOWNLOADING: SKY_BLUE,
    UpdatePhase.VERIFIED: SKY_BLUE,
    UpdatePhase.TESTING: SKY_BLUE,
    UpdatePhase.TRIAL: YELLOW,
    UpdatePhase.COMMITTED: GREEN,
    UpdatePhase.REJECTED: ORANGE,
    UpdatePhase.ROLLED_BACK: VERMILLION,
    UpdatePhase.UNKNOWN: YELLOW,
}
BOOT_END = {BootEnd.RUNNING: GREEN, BootEnd.GOODBYE: SKY_BLUE, BootEnd.LOST: ORANGE}
CALIBRATION = {
    phase: {CalibrationPhase.ARMED: GREEN, CalibrationPhase.REFUSED: ORANGE}.get(phase, SKY_BLUE)
    for phase in CalibrationPhase
} | {CalibrationPhase.NONE: GREY, CalibrationPhase.UNKNOWN: YELLOW}

_LOUD = frozenset((MachineState.ALARM, MicrophoneState.SILENT, MicrophoneState.GONE))


def code(state: StrEnum) -> int:
    """The integer that is stored for a state."""
    return CODES[type(state)].index(state)


def words(colours: Mapping[Any, str]) -> list[dict[str, Any]]:
    """Value mappings: a stored code becomes its word, in its colour."""
    return _mapping({str(code(state)): (_word(state), colours[state]) for state in colours})


def yes_no(*, yes: str, no: str, bad: int) -> list[dict[str, Any]]:
    """Value mappings of 0 and 1, of which one is bad."""
    return _mapping(
        {str(v): (text, VERMILLION if v == bad else GREEN) for v, text in ((0, no), (1, yes))}
    )


def _mapping(texts: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    options = {
        value: {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


def _word(state: StrEnum) -> str:
    text = state.replace("_", " ")
    return text.upper() if state in _LOUD else text
