"""Sound cards as Linux describes them in /sys and /proc, and the keys that last.

Standard library alone: the capture program has to stay small.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAX_TEXT: Final = 64
"""Serial numbers and names come from whatever is plugged in."""


@dataclass(frozen=True, slots=True)
class Card:
    """An ALSA sound card, as Linux describes it in /proc and /sys."""

    number: int
    """Changes when cards are plugged in another order: never part of a key."""
    card_id: str
    usb_path: str | None = None
    """Host controller and ports, as the kernel names them: `0000:01:00.0-1.3`."""
    usb_id: str | None = None
    """The USB `vendor:product`, in hexadecimal; None if it is no USB device."""
    serial: str | None = None
    capture_devices: tuple[int, ...] = ()


def read_cards(proc_root: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> list[Card]:
    """The sound cards that Linux knows; empty elsewhere.

    /sys comes first: Docker hides /proc/asound, and /proc/asound/cards cuts long names. Both
    give the same keys.
    """
    cards = _cards_of_sys(sys_root)
    for number, card in _cards_of_proc(proc_root).items():
        cards[number] = _merged(cards[number], card) if number in cards else card
    return [cards[number] for number in sorted(cards)]


def card_keys(card: Card, device: int) -> list[str]:
    """What a capture device of a card can be called, the most lasting first.

    A serial number goes with the microphone, the path stays with the port, and the card id is
    the kernel's choice, which may depend on the order of plugging in.
    """
    part = f",{device}" if device else ""
    keys = []
    if card.usb_id and card.serial:
        keys.append(f"usb-id:{card.usb_id}:{card.serial}{part}")
    if card.usb_path:
        keys.append(f"usb-path:{card.usb_path}{part}")
    keys.append(f"alsa:{card.card_id}:{device}")
    return keys


def _merged(first: Card, second: Card) -> Card:
    return Card(
        number=first.number,
        card_id=first.card_id or second.card_id,
        usb_path=first.usb_path or second.usb_path,
        usb_id=first.usb_id or second.usb_id,
        serial=first.serial or second.serial,
        capture_devices=first.capture_devices or second.capture_devices,
    )


def _cards_of_sys(root: Path) -> dict[int, Card]:
    sound = root / "class" / "sound"
    cards = {}
    for entry in sound.glob("card*"):
        number = entry.name.removeprefix("card")
        if not number.isdecimal():
            continue
        usb = _usb_device(entry / "device", root)
        cards[int(number)] = Card(
            number=int(number),
            card_id=_text(entry / "id") or "",
            usb_path=_usb_path(usb) if usb else None,
            usb_id=_usb_id(usb) if usb else None,
            serial=_text(usb / "serial") if usb else None,
            capture_devices=_device_numbers(sound, rf"pcmC{number}D(\d+)c"),
        )
    return cards


def _usb_device(entry: Path, root: Path) -> Path | None:
    """The nearest directory above that is a USB device; above that are hubs and controllers."""
    place, top = entry.resolve(), root.resolve()
    for directory in (place, *place.parents):
        if directory == top or not directory.is_relative_to(top):
            return None
        if (directory / "idVendor").is_file():
            return directory
    return None


def _usb_id(device: Path) -> str | None:
    vendor, product = _text(device / "idVendor"), _text(device / "idProduct")
    return f"{vendor}:{product}" if vendor and product else None


def _usb_path(device: Path) -> str | None:
    """The kernel's `usb_make_path`, without its "usb-": bus numbers change, this does not."""
    ports = device.name.partition("-")[2]
    for directory in device.parents:
        if re.fullmatch(r"usb\d+", directory.name):
            return f"{directory.parent.name}-{ports}"
    return None


def _cards_of_proc(root: Path) -> dict[int, Card]:
    asound = root / "asound"
    try:
        text = (asound / "cards").read_text(errors="replace")
    except OSError:
        return {}
    cards = {}
    for entry in re.finditer(r"^ *(\d+) \[(.{15})\]: .*\n(.*)$", text, re.MULTILINE):
        number = int(entry[1])
        # The speed after it says that the kernel had room for the whole path.
        path = re.search(r" at usb-(\S+), \w+ speed", entry[3])
        card_directory = asound / f"card{number}"
        cards[number] = Card(
            number=number,
            card_id=entry[2].strip(),
            usb_path=path[1] if path else None,
            usb_id=_text(card_directory / "usbid"),
            capture_devices=_device_numbers(card_directory, r"pcm(\d+)c"),
        )
    return cards


def _device_numbers(directory: Path, pattern: str) -> tuple[int, ...]:
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError:
        return ()
    return tuple(sorted(int(match[1]) for name in names if (match := re.fullmatch(pattern, name))))


def _text(file: Path) -> str | None:
    """A one-line attribute without spaces and controls, or None."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    words = "".join(c if c.isprintable() else " " for c in text).split()
    return "_".join(words)[:_MAX_TEXT] or None
