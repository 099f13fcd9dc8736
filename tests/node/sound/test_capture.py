"""The capture program: its records, the names of microphones, and the program in a process."""

import errno
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.sound.capture import Recorder, reason_of
from node.sound.capture_records import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    CaptureError,
    ProblemReason,
    RecordHeader,
    RecordKind,
    decode_header,
    encode_record,
)
from node.sound.cards import Card, card_keys, read_cards
from node.sound.input_devices import InputDevice, identified, selected

ROOT = Path(__file__).parents[3]
FAKE_PORTAUDIO = Path(__file__).parents[1] / "fake_portaudio"

GOLDEN_SOUND = bytes.fromhex(
    "45415231 02 000000 08000000 02000000 0807060504030201 05000000 06000000 0000003f 000080bf"
)
"""Format 1, two frames of one channel: 0.5, -1."""
GOLDEN_HELLO = bytes.fromhex(
    "45415231 01 000000 02000000 00000000 0000000000000000 00000000 00000000 7b7d"
)


def test_sound_record_is_written_as_released() -> None:
    """A sound record of format 1 is the same bytes as ever."""
    record = encode_record(
        RecordKind.SOUND,
        struct.pack("<2f", 0.5, -1.0),
        frames=2,
        captured_monotonic_ns=0x0102030405060708,
        overruns=5,
        dropped_blocks=6,
    )

    assert record == GOLDEN_SOUND
    assert encode_record(RecordKind.HELLO, b"{}") == GOLDEN_HELLO


def test_sound_header_is_read_as_released() -> None:
    """A header of format 1 gives back its fields."""
    header = decode_header(GOLDEN_SOUND[: HEADER.size])

    assert header == RecordHeader(
        kind=RecordKind.SOUND,
        payload_bytes=8,
        frames=2,
        captured_monotonic_ns=0x0102030405060708,
        overruns=5,
        dropped_blocks=6,
    )
    assert GOLDEN_SOUND[HEADER.size :] == struct.pack("<2f", 0.5, -1.0)


def test_header_of_another_format_is_refused() -> None:
    """Neither text nor a later format is taken for a record."""
    with pytest.raises(ValueError, match=r"starts with b'EAR1', got b'EAR2'"):
        decode_header(b"EAR2" + GOLDEN_SOUND[4:32])


@pytest.mark.parametrize("excess", [0, 1])
def test_header_bounds_the_payload(excess: int) -> None:
    """The largest payload passes and one byte more does not."""
    size = MAX_PAYLOAD_BYTES + excess
    data = struct.pack("<4sB3xIIQII", b"EAR1", 2, size, 0, 0, 0, 0)

    if excess:
        with pytest.raises(ValueError, match=f"at most {size - 1} payload bytes, got {size}"):
            decode_header(data)
    else:
        assert decode_header(data).payload_bytes == size


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def usb_card(
    sys_root: Path, number: int, device: str, *, controller: str, serial: str | None, card_id: str
) -> None:
    """A card as /sys shows it: class/sound/cardN -> devices/.../usbB/B-1/B-1.3/B-1.3:1.0/sound."""
    bus, _, ports = device.partition("-")
    hubs = [f"{bus}-{ports[:end]}" for end in range(1, len(ports), 2)]
    usb = sys_root.joinpath("devices/platform/scb", controller, f"usb{bus}", *hubs, device)
    sound = usb / f"{device}:1.0/sound/card{number}"
    tree(usb, {"idVendor": "0d8c\n", "idProduct": "0014\n"})
    # The root hub is a USB device as well, and must not be taken for the microphone.
    tree(
        next(parent for parent in usb.parents if parent.name == f"usb{bus}"),
        {"idVendor": "1d6b\n", "idProduct": "0002\n", "serial": f"{controller}\n"},
    )
    if serial is not None:
        tree(usb, {"serial": serial})
    tree(sound, {"id": f"{card_id}\n", f"pcmC{number}D0c/dev": "116:24\n"})
    (sound / "device").symlink_to("../..")
    listing = sys_root / "class/sound"
    listing.mkdir(parents=True, exist_ok=True)
    (listing / f"card{number}").symlink_to(sound)
    (listing / f"pcmC{number}D0c").symlink_to(sound / f"pcmC{number}D0c")


CARDS = """\
 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones
                      bcm2835 Headphones
 1 [Device         ]: USB-Audio - USB Audio Device
                      C-Media Electronics Inc. USB Audio Device at usb-0000:01:00.0-1.3, full speed
 2 [Long           ]: USB-Audio - A microphone with a very long name
                      A Manufacturer With A Name A microphone with a very long name at usb-0000:01:0
"""


def test_usb_card_is_found_in_sys(tmp_path: Path) -> None:
    """Vendor, product, serial number and path come from the USB device above the card."""
    usb_card(tmp_path, 1, "1-1.3", controller="0000:01:00.0", serial="A1 \x07b\n", card_id="Device")

    cards = read_cards(tmp_path / "proc", tmp_path)

    assert cards == [Card(1, "Device", "0000:01:00.0-1.3", "0d8c:0014", "A1_b", (0,))]
    assert card_keys(cards[0], 0) == [
        "usb-id:0d8c:0014:A1_b",
        "usb-path:0000:01:00.0-1.3",
        "alsa:Device:0",
    ]


def test_usb_card_is_found_in_proc(tmp_path: Path) -> None:
    """Without /sys, /proc gives the same path; one that the kernel has cut is not used."""
    proc = tree(
        tmp_path,
        {
            "asound/cards": CARDS,
            "asound/card1/usbid": "0d8c:0014\n",
            "asound/card1/pcm0c/info": "",
            "asound/card1/pcm0p/info": "",
        },
    )

    cards = read_cards(proc, tmp_path / "sys")

    assert cards == [
        Card(0, "Headphones"),
        Card(1, "Device", "0000:01:00.0-1.3", "0d8c:0014", None, (0,)),
        Card(2, "Long"),
    ]


def test_proc_fills_in_what_sys_lacks(tmp_path: Path) -> None:
    """Both together know more cards than either."""
    usb_card(tmp_path, 1, "1-1.3", controller="0000:01:00.0", serial="A1", card_id="Device")
    tree(tmp_path, {"asound/cards": CARDS})

    cards = read_cards(tmp_path, tmp_path)

    assert [card.number for card in cards] == [0, 1, 2]
    assert cards[1] == Card(1, "Device", "0000:01:00.0-1.3", "0d8c:0014", "A1", (0,))


def test_keys_survive_another_order_of_plugging_in(tmp_path: Path) -> None:
    """Another card number, card id and bus number leave the lasting keys as they were."""
    for number, bus, card_id in ((1, "1", "Device"), (4, "3", "Device_1")):
        root = tmp_path / bus
        usb_card(root, number, f"{bus}-1.3", controller="xhci.0", serial="A1", card_id=card_id)

    before = read_cards(tmp_path, tmp_path / "1")[0]
    after = read_cards(tmp_path, tmp_path / "3")[0]

    assert before.number != after.number
    assert card_keys(before, 0)[:2] == card_keys(after, 0)[:2]
    assert card_keys(before, 0)[2:] != card_keys(after, 0)[2:]


def test_card_on_the_board_has_an_alsa_key(tmp_path: Path) -> None:
    """An I2S card, which no USB device is above, is known by its id."""
    root = tmp_path / "sys"
    card = tree(
        root / "devices/platform/soc/soc:sound/sound/card0",
        {"id": "sndrpigooglevoi", "pcmC0D0c/dev": ""},
    )
    (card / "device").symlink_to("../..")
    (root / "class/sound").mkdir(parents=True)
    (root / "class/sound/card0").symlink_to(card)
    (root / "class/sound/pcmC0D0c").symlink_to(card / "pcmC0D0c")
    # A walk that leaves /sys would find this.
    tree(tmp_path, {"idVendor": "bad0", "idProduct": "bad1"})

    cards = read_cards(tmp_path / "proc", root)

    assert cards == [Card(0, "sndrpigooglevoi", capture_devices=(0,))]
    assert card_keys(cards[0], 0) == ["alsa:sndrpigooglevoi:0"]


def test_no_trees_no_cards(tmp_path: Path) -> None:
    """Outside Linux there is nothing to read, which is no error."""
    assert read_cards(tmp_path / "proc", tmp_path / "sys") == []


def hardware(index: int, number: int, *, device: int = 0, default: bool = False) -> InputDevice:
    name = f"USB Audio Device: - (hw:{number},{device})"
    return InputDevice(index, name, "ALSA", 48000, 1, default)


CARD = Card(1, "Device", "xhci.0-1.3", "0d8c:0014", "A1", (0,))


def test_serial_number_is_the_key_while_it_is_the_only_one() -> None:
    """The serial number is the key, and the other names are aliases."""
    (microphone,) = identified([hardware(3, 1)], [CARD])

    assert microphone.key == "usb-id:0d8c:0014:A1"
    assert microphone.aliases == (
        "usb-path:xhci.0-1.3",
        "alsa:Device:0",
        "name:USB Audio Device: -",
        "name:USB Audio Device: -, ALSA",
    )


def test_twins_are_told_apart_by_their_ports() -> None:
    """Two microphones with one serial number get their paths as keys, and no shared alias."""
    twin = Card(2, "Device_1", "xhci.0-1.4", "0d8c:0014", "A1", (0,))

    first, second = identified([hardware(3, 1), hardware(4, 2)], [CARD, twin])

    assert (first.key, second.key) == ("usb-path:xhci.0-1.3", "usb-path:xhci.0-1.4")
    assert not {first.key, *first.aliases} & {second.key, *second.aliases}


def test_second_capture_device_of_a_card_has_its_own_key() -> None:
    """Device 1 of a card adds its number to the card's keys."""
    first, second = identified([hardware(3, 1), hardware(4, 1, device=1)], [CARD])

    assert (first.key, second.key) == ("usb-id:0d8c:0014:A1", "usb-id:0d8c:0014:A1,1")


def test_device_without_a_card_is_known_by_name() -> None:
    """A plugin, and a card that Linux does not show, have their names without any index."""
    plugin = InputDevice(0, "pulse", "ALSA", 44100, 32, is_default=False)

    keys = [microphone.key for microphone in identified([plugin, hardware(1, 6)], [CARD])]

    assert keys == ["name:pulse", "name:USB Audio Device: -"]


@pytest.mark.parametrize(
    "device", ["default", "usb-id:0d8c:0014:A1", "usb-path:xhci.0-1.3", "alsa:Device:0"]
)
def test_microphone_is_selected_by_any_of_its_names(device: str) -> None:
    """Key, alias and `default` lead to the same microphone."""
    microphones = identified([hardware(0, 9), hardware(1, 1, default=True)], [CARD])

    assert selected(microphones, [CARD], device).index == 1


def test_absent_microphone_is_reported_with_those_that_are_here() -> None:
    """The message names what was asked for and what there is."""
    microphones = identified([hardware(1, 1)], [CARD])

    with pytest.raises(CaptureError, match=r"usb-id:1:2:3, got 0.*usb-id:0d8c:0014:A1") as caught:
        selected(microphones, [CARD], "usb-id:1:2:3")
    assert caught.value.reason == "no_device"


def test_no_microphone_at_all_is_said() -> None:
    """Without any microphone the message does not offer a choice."""
    with pytest.raises(CaptureError, match="found no microphone at all: plug it in"):
        selected([], [], "default")


def test_name_of_two_microphones_selects_neither() -> None:
    """A shared name does not pick the first that has it."""
    microphones = identified([hardware(1, 5), hardware(2, 6)], [])

    with pytest.raises(CaptureError, match="got 2") as caught:
        selected(microphones, [], "name:USB Audio Device: -, ALSA")
    assert caught.value.reason == "no_device"


def test_card_that_portaudio_cannot_open_is_busy() -> None:
    """PortAudio leaves out a card that is in use; Linux still shows it."""
    with pytest.raises(CaptureError, match="plugged in but does not open") as caught:
        selected([], [CARD], "usb-id:0d8c:0014:A1")
    assert caught.value.reason == "busy"


def test_loudspeaker_is_not_a_busy_microphone() -> None:
    """A card without a capture device is no microphone that could be busy."""
    with pytest.raises(CaptureError) as caught:
        selected([], [Card(1, "Headphones")], "alsa:Headphones:0")
    assert caught.value.reason == "no_device"


@pytest.mark.parametrize(
    ("pa_code", "host_code", "reason"),
    [
        (-9985, None, "busy"),
        (-9999, -errno.EBUSY, "busy"),
        (-9999, -errno.EACCES, "busy"),
        (-9997, None, "bad_format"),
        (-9998, None, "bad_format"),
        (-9999, -errno.EINVAL, "bad_format"),
        (-9996, None, "no_device"),
        (-9999, -errno.ENODEV, "no_device"),
        (-9999, -errno.EIO, "stopped"),
        (-9988, None, "stopped"),
    ],
)
def test_reason_of_a_portaudio_error(
    pa_code: int, host_code: int | None, reason: ProblemReason
) -> None:
    """Errors of PortAudio and of ALSA lead to one of our reasons."""
    assert reason_of(pa_code, host_code) == reason


def hear(recorder: Recorder, *, age_seconds: float = 0.25, overflow: bool = False) -> None:
    times = SimpleNamespace(currentTime=1.0, inputBufferAdcTime=1.0 - age_seconds)
    recorder(bytes(8), 2, times, SimpleNamespace(input_overflow=overflow))


@pytest.mark.parametrize(
    ("reported_seconds", "used_seconds"),
    [(0.25, 0.25), (0.0, 0.02), (-0.01, 0.02), (1.8e9, 0.02)],
    ids=["sane", "none", "negative", "another clock"],
)
def test_capture_time_is_that_of_the_first_sample(
    reported_seconds: float, used_seconds: float
) -> None:
    """The block's age is PortAudio's word, or at least its length where that cannot be true."""
    recorder = Recorder(rate_hz=100)

    before_ns = time.monotonic_ns()
    hear(recorder, age_seconds=reported_seconds)
    after_ns = time.monotonic_ns()

    # PortAudio's times are floats: 1.0 - 0.25 is exact, and the rest is rounded to nanoseconds.
    heard_ns = recorder.next(0).captured_monotonic_ns + round(used_seconds * 1e9)
    assert before_ns <= heard_ns <= after_ns


def test_overruns_add_up() -> None:
    """Each block carries how often input was lost up to it."""
    recorder = Recorder(rate_hz=100)

    for overflow in (False, True, False, True):
        hear(recorder, overflow=overflow)

    assert [recorder.next(0).overruns for _ in range(4)] == [0, 1, 1, 2]


def test_full_queue_drops_the_new_block_and_counts_it() -> None:
    """What waits stays whole, and the block after the gap tells how long it was."""
    recorder = Recorder(rate_hz=100, queue_blocks=2)

    for _ in range(5):
        hear(recorder)
    drops = [recorder.next(0).dropped_blocks, recorder.next(0).dropped_blocks]
    hear(recorder)

    assert drops == [0, 0]
    assert recorder.next(0).dropped_blocks == 3


def test_end_of_the_stream_comes_after_the_last_block() -> None:
    """Nothing that was heard is lost when the device goes."""
    recorder = Recorder(rate_hz=100)

    hear(recorder)
    recorder.finish()

    assert recorder.next(0).frames == 2
    with pytest.raises(EOFError):
        recorder.next(0)


def test_silence_of_the_callback_times_out() -> None:
    """A stream without blocks is noticed."""
    with pytest.raises(TimeoutError):
        Recorder(rate_hz=100).next(0)


Records = list[tuple[RecordHeader, bytes]]


def split(data: bytes) -> Records:
    records = []
    while data:
        header = decode_header(data[: HEADER.size])
        end = HEADER.size + header.payload_bytes
        records.append((header, data[HEADER.size : end]))
        data = data[end:]
    return records


def environment(python_path: Path, behaviour: str = "") -> dict[str, str]:
    paths = os.pathsep.join([str(python_path), str(ROOT)])
    return os.environ | {"PYTHONPATH": paths, "EARSHOT_FAKE_SOUND": behaviour}


def start(behaviour: str, *options: str) -> subprocess.Popen[bytes]:
    """The true program with a fake sounddevice."""
    return subprocess.Popen(
        [sys.executable, "-m", "node.sound.capture", *options],
        env=environment(FAKE_PORTAUDIO, behaviour),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(behaviour: str, *options: str) -> tuple[int, Records]:
    """Lets the program end by itself: its input stays open."""
    with start(behaviour, *options) as process:
        assert process.stdout is not None
        records = split(process.stdout.read())
        return process.wait(10), records


def problem(records: Records) -> tuple[str, str]:
    header, payload = records[-1]
    assert header.kind == RecordKind.PROBLEM
    fault = json.loads(payload)
    assert "\n" not in fault["message"]
    return fault["reason"], fault["message"]


def test_program_streams_what_it_hears() -> None:
    """Hello, every block in order with its counters, then why it ended."""
    status, records = run("blocks:5", "--device", "name:Fake Mic: USB Audio")

    (hello, hello_json), *sound, _ = records
    assert hello.kind == RecordKind.HELLO
    assert json.loads(hello_json) == {
        "identity": "name:Fake Mic: USB Audio",
        "name": "Fake Mic: USB Audio (hw:7,0)",
        "host_api": "ALSA",
        "sample_rate_hz": 16000,
        "channels": 2,
        "sample_format": "float32",
    }
    assert [header.overruns for header, _ in sound] == [0, 0, 1, 1, 1]
    for number, (header, payload) in enumerate(sound):
        assert header.frames == 800
        assert payload == struct.pack("=2f", number / 1024, (number + 0.5) / 1024) * 800
    assert problem(records)[0] == "stopped"
    assert status == 1


def test_program_obeys_rate_and_channels() -> None:
    """What was asked for is what the hello says."""
    _, records = run("blocks:1", "--rate", "48000", "--channels", "1")

    hello = json.loads(records[0][1])
    assert (hello["sample_rate_hz"], hello["channels"]) == (48000, 1)
    assert records[1][0].frames == 2400
    assert records[1][0].payload_bytes == 2400 * 4


def test_device_that_gives_nothing_is_given_up() -> None:
    """A stream that opens and stays quiet ends the program."""
    status, records = run("quiet", "--stall-seconds", "0.1")

    reason, message = problem(records)
    assert [header.kind for header, _ in records] == [RecordKind.HELLO, RecordKind.PROBLEM]
    assert reason == "stopped"
    assert "gave no sound for 0.1 s" in message
    assert status == 1


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("busy", "busy"),
        (f"host:{-errno.EBUSY}", "busy"),
        (f"host:{-errno.EINVAL}", "bad_format"),
        ("broken", "no_portaudio"),
    ],
)
def test_device_that_does_not_open_is_one_problem(behaviour: str, reason: str) -> None:
    """Errors of PortAudio become the first and only record."""
    status, records = run(behaviour)

    assert len(records) == 1
    assert problem(records)[0] == reason
    assert status == 1


def test_unknown_device_is_one_problem() -> None:
    """The message names the microphones that are there."""
    _, records = run("quiet", "--device", "usb-id:1:2:3")

    reason, message = problem(records)
    assert reason == "no_device"
    assert "name:Fake Mic: USB Audio" in message


def test_list_leaves_out_outputs_and_indices() -> None:
    """The list has the microphones, the default marked, and no number to hold on to."""
    with start("quiet", "--list") as process:
        output, _ = process.communicate(timeout=10)

    assert json.loads(output) == {
        "microphones": [
            {
                "key": "name:Fake Mic: USB Audio",
                "aliases": ["name:Fake Mic: USB Audio, ALSA"],
                "name": "Fake Mic: USB Audio (hw:7,0)",
                "host_api": "ALSA",
                "default_sample_rate_hz": 16000,
                "max_input_channels": 2,
                "is_default": True,
            }
        ]
    }


def test_closed_input_ends_the_program() -> None:
    """The parent need only close the pipe."""
    with start("quiet") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.read(HEADER.size)
        process.stdin.close()

        assert process.wait(10) == 0


def test_closed_output_ends_the_program() -> None:
    """Nobody to write to is no error."""
    with start("endless") as process:
        assert process.stdout is not None
        process.stdout.read(HEADER.size)
        process.stdout.close()

        assert process.wait(10) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


PARENT = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-m", "node.sound.capture"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
child.stdout.read(40)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfd_open is Linux")
@pytest.mark.parametrize("behaviour", ["quiet", "endless"])
def test_program_does_not_outlive_a_killed_parent(behaviour: str) -> None:
    """Whether it waits for sound or for a reader, the parent's death is its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=environment(FAKE_PORTAUDIO, behaviour),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        alive_before = not select.select([child], [], [], 0)[0]

        parent.send_signal(signal.SIGKILL)
        ended, _, _ = select.select([child], [], [], 10)

    os.close(child)
    assert alive_before
    assert ended


NO_LIBRARY = """
import ctypes.util
find_library = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if name == "portaudio" else find_library(name)
"""


@pytest.fixture
def without_portaudio(tmp_path: Path) -> dict[str, str]:
    """An environment in which the C library is not found; sounddevice and we are the true ones."""
    pytest.importorskip("_sounddevice", reason="the Python package sounddevice is not installed")
    (tmp_path / "sitecustomize.py").write_text(NO_LIBRARY)
    return environment(tmp_path)


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run_without_portaudio(without_portaudio: dict[str, str]) -> Run:
    def _run(*options: str) -> subprocess.CompletedProcess[bytes]:
        with subprocess.Popen(
            [sys.executable, "-m", "node.sound.capture", *options],
            env=without_portaudio,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            out, errors = process.stdout.read(), process.stderr.read()
            return subprocess.CompletedProcess(options, process.wait(10), out, errors)

    return _run


def test_missing_library_is_one_line_with_the_package(run_without_portaudio: Run) -> None:
    """Without libportaudio the program says what to install, and nothing else."""
    done = run_without_portaudio()

    assert problem(split(done.stdout)) == (
        "no_portaudio",
        (
            "PortAudio does not load (PortAudio library not found): run"
            " `sudo apt install libportaudio2`"
        ),
    )
    assert done.stderr == b""
    assert done.returncode == 1


def test_missing_library_is_told_in_the_list(run_without_portaudio: Run) -> None:
    """The list says it in JSON too."""
    done = run_without_portaudio("--list")

    assert json.loads(done.stdout)["problem"]["reason"] == "no_portaudio"
    assert b"libportaudio2" in done.stdout
    assert done.returncode == 1


def test_missing_python_package_is_one_line() -> None:
    """Without site-packages there is no sounddevice, and that is said."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "node.sound.capture", "--list"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        timeout=30,
    )

    fault = json.loads(done.stdout)["problem"]
    assert fault["reason"] == "no_portaudio"
    assert "pip install 'earshot-fleet[node]'" in fault["message"]
    assert done.stderr == b""


def test_program_stays_small() -> None:
    """Importing it loads neither NumPy nor, in the parent, PortAudio."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, node.sound.capture; print(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=30,
    )

    assert not {"numpy", "msgspec", "sounddevice", "cffi"} & set(done.stdout.split())


@pytest.mark.parametrize("option", [["--rate", "0"], ["--channels", "two"], ["--rate", "-1"]])
def test_nonsense_options_are_refused(option: list[str]) -> None:
    """A bad number ends with argparse's status and nothing on the record pipe."""
    with start("quiet", *option) as process:
        out, errors = process.communicate(timeout=10)

    assert process.returncode == 2
    assert out == b""
    assert b"Expected a positive number" in errors
