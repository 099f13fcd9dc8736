"""Channels that had better not be mixed."""

import numpy as np
import pytest

from contract.features import Float32Array
from node.findings import Grade
from node.sound.channels import ChannelLevels, channel_findings

_RNG = np.random.default_rng(3)
_SOUND = _RNG.normal(0, 0.05, 48_000)
_OTHER = _RNG.normal(0, 0.05, 48_000)
_HISS = _RNG.normal(0, 1e-5, 48_000)
_NOTHING = np.zeros(48_000)

_BAD = {
    "one turned round": ([_SOUND, -_SOUND], "cancel", 0),
    "turned round, and a bit quieter": ([0.8 * _SOUND, -_SOUND], "cancel", 1),
    "two of four turned round": ([_SOUND, -_SOUND, _SOUND, -_SOUND], "cancel", 0),
    "turned round on a constant": ([_SOUND + 0.2, 0.2 - _SOUND], "cancel", 0),
    "no plug on the right": ([_SOUND, _NOTHING], "channel 1 is dead", 0),
    "no plug on the left": ([_HISS, _SOUND], "channel 0 is dead", 1),
    "a constant": ([np.full(48_000, 0.5), _SOUND], "channel 0 is dead", 1),
    "six of eight": (
        [_NOTHING, _SOUND, *[_HISS] * 5, _SOUND],
        "channels 0, 2, 3, 4, 5 and 6 are",
        1,
    ),
}
_GOOD = {
    "the same twice": [_SOUND, _SOUND],
    "nothing in common": [_SOUND, _OTHER],
    "eight of nothing in common": list(_RNG.normal(0, 0.05, (8, 48_000))),
    "one a room away": [_SOUND, 0.1 * _SOUND + 0.01 * _OTHER],
    "one alone": [_SOUND],
    "silence": [_NOTHING, _NOTHING],
}


def _levels(channels: list[Float32Array]) -> ChannelLevels:
    levels = ChannelLevels()
    frames = np.asarray(channels).T
    for block in np.array_split(frames, 10):
        powers = tuple(float(power) for power in block.var(axis=0))
        levels.hear(powers, float(block.mean(axis=1).var()), samples=len(block))
    return levels


@pytest.mark.parametrize("name", _BAD)
def test_channels_that_spoil_the_mean_are_named(name: str) -> None:
    """A dead channel or one that is turned round is named, with the channel to take instead."""
    channels, said, take = _BAD[name]
    levels = _levels(channels)

    (finding,) = channel_findings(levels.levels_dbfs, levels.mixed_dbfs)

    assert finding.grade is Grade.WARNING
    assert said in finding.found
    assert finding.advice is not None
    assert f"[source] channel = {take} " in finding.advice


@pytest.mark.parametrize("name", _GOOD)
def test_channels_that_may_be_mixed_are_not(name: str) -> None:
    """Nor is silence, of which the level itself is told."""
    levels = _levels(_GOOD[name])

    assert not channel_findings(levels.levels_dbfs, levels.mixed_dbfs)


def test_before_any_sound_there_is_nothing_to_say() -> None:
    """A microphone that opens and gives no sound is another finding."""
    levels = ChannelLevels()

    assert levels.levels_dbfs == ()
    assert not channel_findings(levels.levels_dbfs, levels.mixed_dbfs)
