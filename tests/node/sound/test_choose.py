"""The source that a text asks for."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from node.sound.calculated import CalculatedSource
from node.sound.choose import choose_source
from node.sound.errors import SourceError
from node.sound.healing import HealingSource
from node.sound.recordings import RecordingSource
from node.sound.source import AudioSource


def choose(
    spec: str, *, channel: int | None = None, fast: bool = False, model_rate_hz: int = 16_000
) -> AudioSource:
    return choose_source(spec, channel=channel, fast=fast, model_rate_hz=model_rate_hz)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A short stereo file."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full((1600, 2), 0.25), 16_000)
    return path


@pytest.mark.parametrize("spec", ["microphone:default", "microphone:", "microphone:usb-id:1:2:3"])
def test_microphone_is_chosen_and_not_opened(spec: str) -> None:
    """A microphone is chosen by its key without being looked for yet."""
    assert isinstance(choose(spec), HealingSource)


def test_calculated_sound_is_chosen_at_the_models_rate() -> None:
    """Calculated sound needs no resampling: it is calculated at the model's rate."""
    source = choose("synthetic:fan?fault=bearing&unit=2&seed=4", model_rate_hz=22_050)

    assert isinstance(source, CalculatedSource)
    assert source.sample_rate_hz == 22_050
    assert source.identity == "synthetic:fan?unit=2&seed=4"


def test_file_or_folder_is_chosen(recording: Path) -> None:
    """A path is a recording, or a folder of them, with the channel asked for."""
    for path in (recording, recording.parent):
        source = choose(str(path), channel=1, fast=True)
        assert isinstance(source, RecordingSource)
        assert source.identity == "file:a.wav"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("synthetic:", "Expected a machine out of fan, "),
        ("synthetic:dishwasher", "Expected a machine out of fan, .*; got 'dishwasher'"),
        ("synthetic:fan?fault=rust", "Expected a fault out of .*bearing.*; got 'rust'"),
        ("synthetic:fan?colour=red", "Expected a key out of .*severity.*; got 'colour'"),
        ("synthetic:fan?severity=2", "Expected severity to be a number of 0..1; got "),
        ("synthetic:fan?seconds=nan", "Expected seconds to be a number of 0.1..86400; got "),
        ("synthetic:fan?unit=1.5", "Expected unit to be a whole number of 0.."),
        ("synthetic:fan?unit=1&unit=2", "Expected unit once; got it again with '2'"),
    ],
)
def test_sound_that_cannot_be_is_refused(spec: str, problem: str) -> None:
    """A wrong machine, fault, key or number is told with what may stand there."""
    with pytest.raises(SourceError, match=problem) as error:
        choose(spec)

    assert str(error.value).startswith(f"{spec}: ")
    assert error.value.reason == "bad_format"


def test_every_problem_of_a_sound_is_told_in_one_line() -> None:
    """Several mistakes in one text come together."""
    with pytest.raises(SourceError) as error:
        choose("synthetic:dishwasher?fault=rust&severity=2")

    text = str(error.value)
    assert "\n" not in text
    for word in ("dishwasher", "rust", "severity"):
        assert word in text.split(": ", 1)[1]


@pytest.mark.parametrize(
    ("spec", "example"),
    [
        ("synthetic:fan", "synthetic:fan?seconds=600"),
        ("synthetic:fan?unit=2", "synthetic:fan?unit=2&seconds=600"),
    ],
)
def test_fast_sound_needs_an_end(spec: str, example: str) -> None:
    """Endless sound as fast as possible would never be done: a length is asked for, by example."""
    with pytest.raises(SourceError) as error:
        choose(spec, fast=True)

    assert str(error.value) == f"With --fast say for how long, for example {example}"
    assert isinstance(choose(example, fast=True), CalculatedSource)


def test_microphone_is_not_fast() -> None:
    """A microphone cannot hear faster than the sound comes."""
    with pytest.raises(SourceError, match="A microphone hears in real time: leave out --fast"):
        choose("microphone:default", fast=True)


@pytest.mark.parametrize("spec", ["nowhere.wav", "fan", "microfone:default", "http://x/y.wav"])
def test_path_that_is_not_there_is_refused(spec: str) -> None:
    """Anything else is a path; where there is none, it is named."""
    with pytest.raises(SourceError, match="no such file or folder") as error:
        choose(spec)

    assert str(error.value).startswith(f"{Path(spec)}: ")


def test_rate_that_cannot_be_calculated_is_refused() -> None:
    """A model of a rate beyond the synthesizer's range is told in one line."""
    with pytest.raises(SourceError):
        choose("synthetic:fan", model_rate_hz=96_000)
