"""Which of PortAudio's input devices is meant: each has a key that outlasts unplugging. Pure.

Standard library alone: the capture program has to stay small.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from node.sound.capture_records import CaptureError
from node.sound.cards import Card, card_keys


@dataclass(frozen=True, slots=True)
class InputDevice:
    """An input device, as PortAudio lists it."""

    index: int
    """PortAudio's number of the device; it means nothing in another process."""
    name: str
    host_api: str
    default_sample_rate_hz: int
    max_input_channels: int
    is_default: bool
    key: str = ""
    aliases: tuple[str, ...] = ()
    """Other keys by which this device can be asked for."""


def identified(microphones: Sequence[InputDevice], cards: Iterable[Card]) -> list[InputDevice]:
    """The same microphones with their keys.

    The key is the first that no other microphone shares: many cheap ones have one serial number.
    """
    by_number = {card.number: card for card in cards}
    candidates = [_candidates(microphone, by_number) for microphone in microphones]
    shared = Counter(key for keys in candidates for key in keys)
    return [
        _with_keys(microphone, [key for key in keys if shared[key] == 1] or keys[-1:])
        for microphone, keys in zip(microphones, candidates, strict=True)
    ]


def selected(microphones: Sequence[InputDevice], cards: Iterable[Card], device: str) -> InputDevice:
    """The microphone that `device` names: one of its keys, or `default`.

    Raises:
        CaptureError: none or several have that key (`no_device`), or the card is there and
            PortAudio cannot open it (`busy`).
    """
    if device == "default":
        found = [microphone for microphone in microphones if microphone.is_default]
    else:
        found = [m for m in microphones if device in (m.key, *m.aliases)]
    if len(found) == 1:
        return found[0]
    if device in {
        key for card in cards for d in card.capture_devices for key in card_keys(card, d)
    }:
        raise CaptureError(
            "busy",
            f"Microphone {device} is plugged in but does not open: stop the other program that"
            " uses it, or add this user to the group 'audio'",
        )
    if not microphones:
        raise CaptureError(
            "no_device", f"Expected microphone {device}, found no microphone at all: plug it in"
        )
    known = ", ".join(microphone.key for microphone in microphones)
    raise CaptureError(
        "no_device",
        f"Expected one microphone {device}, got {len(found)}: plug it in, or choose one of those"
        f" that are here ({known})",
    )


def _with_keys(microphone: InputDevice, keys: Sequence[str]) -> InputDevice:
    return replace(microphone, key=keys[0], aliases=tuple(keys[1:]))


def _candidates(microphone: InputDevice, cards: dict[int, Card]) -> list[str]:
    keys = []
    name = microphone.name
    place = re.search(r"\s*\(hw:(\d+),(\d+)\)$", name)
    if microphone.host_api == "ALSA" and place:
        name = name[: place.start()]
        if card := cards.get(int(place[1])):
            keys = card_keys(card, int(place[2]))
    return [*keys, f"name:{name}", f"name:{name}, {microphone.host_api}"]
