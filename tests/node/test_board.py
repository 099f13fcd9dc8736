"""What a board says of itself, from a tree of files like Linux's."""

from pathlib import Path

import pytest

from node.board import BoardReadings, board_name, operating_system, read_board

PI: dict[str, str] = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "sys/class/thermal/thermal_zone0/temp": "48686\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    "proc/self/status": "Name:\tpython3\nVmPeak:\t  123456 kB\nVmRSS:\t   94208 kB\nThreads:\t3\n",
    "proc/meminfo": "MemTotal:  3884364 kB\nMemFree:  1000 kB\nMemAvailable:  3145728 kB\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a Raspberry Pi's files."""
    for name, text in PI.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_pi_is_read(root: Path) -> None:
    """A Pi gives temperature, throttling, memory and disk in the units of `health`."""
    readings = read_board(root)

    assert readings.cpu_temperature_c == 48.686
    assert readings.throttled is False
    assert readings.memory_rss_bytes == 94_208 * 1024
    assert readings.memory_available_bytes == 3_145_728 * 1024
    assert readings.disk_free_bytes > 0


def test_pi_has_its_own_name(root: Path) -> None:
    """The device tree's name is given without its closing zero."""
    assert board_name(root) == "Raspberry Pi 4 Model B Rev 1.4"


@pytest.mark.parametrize(
    ("word", "throttled"),
    [
        ("0", False),
        ("1", True),
        ("2", True),
        ("4", True),
        ("8", True),
        ("50000", False),  # it has happened since the boot, but is over
        ("50005", True),
        ("0x50005\n", True),
    ],
)
def test_throttled_is_about_now(root: Path, word: str, throttled: bool) -> None:
    """The lowest four bits mean now; those that remember do not count."""
    (root / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text(word)

    assert read_board(root).throttled is throttled


def test_frost_is_read(root: Path) -> None:
    """A temperature below zero has its sign."""
    (root / "sys/class/thermal/thermal_zone0/temp").write_text("-5500\n")

    assert read_board(root).cpu_temperature_c == -5.5


def test_what_a_board_does_not_have_is_none(tmp_path: Path) -> None:
    """Without any of the files nothing is invented and nothing fails."""
    readings = read_board(tmp_path)

    assert readings == BoardReadings(
        cpu_temperature_c=None,
        throttled=None,
        memory_rss_bytes=0,
        memory_available_bytes=0,
        disk_free_bytes=readings.disk_free_bytes,
    )


def test_board_without_a_name_is_its_machine(tmp_path: Path) -> None:
    """A computer that is no Pi is named by processor and system."""
    assert board_name(tmp_path).endswith(" Linux")


def test_unreadable_files_are_none(root: Path) -> None:
    """Where a folder stands in a file's place, or text where a number belongs, nothing fails."""
    temperature = root / "sys/class/thermal/thermal_zone0/temp"
    temperature.unlink()
    temperature.mkdir()

    assert read_board(root).cpu_temperature_c is None
    assert read_board(root).throttled is False


def test_temperature_that_is_no_number_is_none(root: Path) -> None:
    """A driver that answers with words gives no temperature."""
    (root / "sys/class/thermal/thermal_zone0/temp").write_text("N/A\n")

    assert read_board(root).cpu_temperature_c is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "N/A\n"),
        ("sys/class/thermal/thermal_zone0/temp", "--5\n"),
        ("proc/meminfo", "MemAvailable:\n"),
        ("proc/meminfo", "MemAvailable:  much kB\n"),
    ],
)
def test_words_where_a_number_belongs_do_not_end_the_node(root: Path, name: str, text: str) -> None:
    """A driver that answers with words costs that one reading, not the node."""
    (root / name).write_text(text)

    readings = read_board(root)

    lost = {None, 0} & {
        readings.cpu_temperature_c,
        readings.throttled,
        readings.memory_available_bytes,
    }
    assert lost
    assert readings.memory_rss_bytes == 94_208 * 1024


def test_this_computer_is_read() -> None:
    """The computer that runs the tests has memory, a system and a name."""
    readings = read_board()

    assert readings.memory_rss_bytes > 10_000_000
    assert readings.memory_available_bytes > 0
    assert board_name()
    assert operating_system()
