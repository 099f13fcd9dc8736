"""The source that a text asks for: `microphone:KEY`, `synthetic:...`, or a path."""

import logging
from pathlib import Path

from node.sound.errors import SourceError
from node.sound.source import AudioSource

logger = logging.getLogger(__name__)

MICROPHONE = "microphone:"
SYNTHETIC = "synthetic:"


def choose_source(spec: str, *, channel: int | None, fast: bool, model_rate_hz: int) -> AudioSource:
    """The source that a text asks for; it is not opened yet.

    Args:
        spec: `microphone:KEY`, `synthetic:fan?fault=bearing&severity=0.5`, or a file or folder.
        channel: which channel to hear, from 0; None mixes all of them.
        fast: as fast as the sound is asked for; not for microphones.
        model_rate_hz: what calculated sound is calculated at.

    Raises:
        SourceError: there is no such source, or it cannot do that.
    """
    # Each kind of source brings libraries that the others do not need.
    if spec.startswith(MICROPHONE):
        from node.sound.healing import HealingSource

        if fast:
            raise SourceError("bad_format", "A microphone hears in real time: leave out --fast")
        return HealingSource(spec.removeprefix(MICROPHONE) or "default", channel=channel)
    if spec.startswith(SYNTHETIC):
        from node.sound.calculated import CalculatedSource
        from node.sound.synthetic import SpecError, parse_spec

        try:
            sound = parse_spec(spec.removeprefix(SYNTHETIC))
        except SpecError as error:
            raise SourceError("bad_format", f"{spec}: {'; '.join(error.problems)}") from error
        if fast and sound.seconds is None:
            example = f"{spec}{'&' if '?' in spec else '?'}seconds=600"
            raise SourceError("bad_format", f"With --fast say for how long, for example {example}")
        try:
            return CalculatedSource(sound, sample_rate_hz=model_rate_hz, fast=fast)
        except ValueError as error:
            raise SourceError("bad_format", f"{spec}: {error}") from error
    from node.sound.recordings import RecordingSource, find_recordings

    found = find_recordings(Path(spec))
    for fault in found.unreadable:
        logger.warning("passed over: %s", fault)
    for recording in found.recordings:
        if recording.note is not None:
            logger.warning("%s: %s", recording.path, recording.note)
    return RecordingSource(found.recordings, channel=channel, fast=fast)
