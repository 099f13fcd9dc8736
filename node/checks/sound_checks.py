"""Checks that listen for some seconds: microphone, its true rate, level, and time to score it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from contract.features import Float32Array
from contract.release import Manifest
from node.findings import Finding, Grade, count, ok, problem, warning
from node.scoring.scorer import Scorer
from node.settings import SourceSection
from node.sound.channels import ChannelLevels, channel_findings
from node.sound.choose import MICROPHONE, choose_source
from node.sound.errors import SourceError
from node.sound.framing import Framer
from node.sound.levels import Level, Levels, clipped_share, level_findings
from node.sound.microphone import Microphone, MicrophoneSource
from node.sound.microphone_health import MicrophoneHealth
from node.sound.source import AudioSource, Block, EndOfSound

SETTLE_SECONDS: Final = 0.5
"""Many USB microphones begin with a thump; it says nothing of the gain."""
_READ_SECONDS: Final = 0.2
_FIRST_SOUND_SECONDS: Final = 5.0
"""A microphone that is open has given a block by then, or never will."""
_UNEVEN_SECONDS: Final = 1.0
"""Sound servers give the first blocks with gaps between them; no rate is counted over those."""
_RATE_SECONDS: Final = 0.5
"""Over less no rate can be told from another."""
_LEAST_SHARE: Final = 0.8
"""Of the seconds asked for; who hears less hears a microphone that has stopped."""
_START_GAP_SECONDS: Final = 0.5
"""May be missing however short it is heard."""
_LEAST_TIMINGS: Final = 20
"""The 95th percentile of fewer is their maximum."""
_RATE_TOLERANCE: Final = 0.01
"""A crystal is right to 0.01 %; a device that runs at another rate than it says is off by 8 % or
more (44.1 for 48 kHz)."""
_STAMP_SECONDS: Final = 0.05
"""Block times may be off by one block at either end."""
_WARNING_LOAD: Final = 0.25
_PROBLEM_LOAD: Final = 0.50
"""Share of a hop. Updates are tried beside the running model: two must fit."""


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured while listening for some seconds."""

    identity: str
    sample_rate_hz: int
    seconds: float
    asked_seconds: float | None
    """How long it was listened to; None where the sound came to its end before."""
    level: Level | None
    """Level of the sound without its first moment; None if nothing was heard."""
    channels_dbfs: tuple[float, ...] = ()
    """RMS level of each channel that was mixed; empty where there was one alone."""
    mixed_dbfs: float = 0.0
    """RMS level of their mean."""
    health_note: str | None
    """What a node would say of the microphone; None while it would believe it."""
    overruns: int
    delivered_hz: float | None
    """Samples against the clock; None where too little came, or sound was lost on the way."""
    delivered_seconds: float
    """Over how many seconds the rate was measured."""
    latencies_ms: tuple[float, ...]
    """From a window's last block being there to its score."""


class WindowTimer:
    """Cuts what is heard into windows and takes the time until each is scored."""

    def __init__(self, scorer: Scorer) -> None:
        features = scorer.manifest.features
        self._scorer = scorer
        self._framer = Framer(
            sample_rate_hz=features.sample_rate_hz,
            window_samples=features.window_samples,
            hop_samples=scorer.manifest.window_hop_samples,
        )
        self.latencies_ms: list[float] = []
        # The first run of a graph allocates; a node does that once.
        self._scorer.score(_noise(features.window_samples))

    def hear(self, block: Block, sample_rate_hz: int) -> None:
        """Take in the next block of sound."""
        started = time.perf_counter()
        for framed in self._framer.push(block, sample_rate_hz):
            if framed.samples is not None:
                self._scorer.score(framed.samples)
                self.latencies_ms.append((time.perf_counter() - started) * 1000)
                started = time.perf_counter()

    def fill_up(self) -> list[float]:
        """All timings, with windows of noise added until they are enough to judge by."""
        window = _noise(self._scorer.manifest.features.window_samples)
        while len(self.latencies_ms) < _LEAST_TIMINGS:
            started = time.perf_counter()
            self._scorer.score(window)
            self.latencies_ms.append((time.perf_counter() - started) * 1000)
        return self.latencies_ms


def settings_source(
    section: SourceSection, *, model_rate_hz: int, fast: bool = False
) -> AudioSource | MicrophoneSource:
    """The source that settings name, a microphone without self-healing.

    Args:
        section: of the settings; its own `fast` is a node's, not ours.
        model_rate_hz: what calculated sound is calculated at.
        fast: as fast as the sound is asked for; not for microphones.


    Raises:
        SourceError: there is no such source.
    """
    if section.spec.startswith(MICROPHONE) and not fast:
        # What is wrong must be told, not waited out.
        key = section.spec.removeprefix(MICROPHONE) or "default"
        return MicrophoneSource(key, channel=section.channel)
    return choose_source(
        section.spec, channel=section.channel, fast=fast, model_rate_hz=model_rate_hz
    )


def listen(
    source: AudioSource | MicrophoneSource,
    seconds: float,
    *,
    timer: WindowTimer | None,
    draw: Callable[[Block, int], None] | None = None,
) -> Listening:
    """Hear a source for some seconds, or until it ends.

    Args:
        source: not entered yet.
        seconds: how long.
        timer: scores what is heard; None where no release can be used.
        draw: shows each block to the user.

    Raises:
        SourceError: it cannot be heard (any more).
    """
    levels, rate, health = Levels(), _DeliveredRate(), MicrophoneHealth()
    channels = ChannelLevels()
    heard_seconds = 0.0
    asked_seconds: float | None = seconds
    with source:
        ends = time.monotonic() + max(seconds, _FIRST_SOUND_SECONDS)
        while time.monotonic() < ends:
            try:
                block = source.read(_READ_SECONDS)
            except EndOfSound:
                asked_seconds = None
                break
            if block is None:
                continue
            if not heard_seconds:
                # Opening may take its time; what was asked for is seconds of sound.
                ends = time.monotonic() + seconds
            rate_hz = source.sample_rate_hz
            heard_seconds += len(block.samples) / rate_hz
            if heard_seconds > SETTLE_SECONDS:
                levels.hear(block.samples, clipped=clipped_share(block))
                if block.channel_powers:
                    channels.hear(
                        block.channel_powers,
                        float(block.samples.var(dtype=np.float64)),
                        samples=len(block.samples),
                    )
            health.hear(block.samples, rate_hz, clipped=block.clipped)
            rate.hear(len(block.samples), block.captured_monotonic_ns)
            if draw is not None:
                draw(block, rate_hz)
            if timer is not None:
                timer.hear(block, rate_hz)
        return Listening(
            identity=source.identity,
            sample_rate_hz=source.sample_rate_hz,
            seconds=heard_seconds,
            asked_seconds=asked_seconds,
            level=levels.level,
            channels_dbfs=channels.levels_dbfs,
            mixed_dbfs=channels.mixed_dbfs,
            health_note=health.note,
            overruns=source.overruns,
            delivered_hz=None if source.overruns else rate.hz,
            delivered_seconds=rate.seconds,
            latencies_ms=() if timer is None else tuple(timer.latencies_ms),
        )


class _DeliveredRate:
    """Counts samples between the time stamps of two blocks: one when it runs evenly, the last."""

    def __init__(self) -> None:
        self._even_from_ns: int | None = None
        self._first_ns: int | None = None
        self._last_ns = 0
        self._samples = 0
        self._last_samples = 0

    def hear(self, samples: int, captured_ns: int) -> None:
        if self._even_from_ns is None:
            self._even_from_ns = captured_ns + round(_UNEVEN_SECONDS * 1e9)
        if captured_ns < self._even_from_ns:
            return
        if self._first_ns is None:
            self._first_ns = captured_ns
        self._samples += self._last_samples
        self._last_ns, self._last_samples = captured_ns, samples

    @property
    def seconds(self) -> float:
        return 0.0 if self._first_ns is None else (self._last_ns - self._first_ns) / 1e9

    @property
    def hz(self) -> float | None:
        return self._samples / self.seconds if self.seconds >= _RATE_SECONDS else None


def heard_findings(heard: Listening, *, is_microphone: bool) -> list[Finding]:
    """What listening has shown: the source, its true rate, lost sound, and the level."""
    findings = [ok("microphone", f"{heard.identity} opens at {heard.sample_rate_hz} Hz")]
    if heard.level is None:
        return [
            problem(
                "microphone",
                f"{heard.identity} opens, but gave {heard.seconds:.1f} s of sound",
                "check its plug; with files, the path",
            )
        ]
    if is_microphone and _has_stopped(heard):
        findings = [
            problem(
                "microphone",
                f"{heard.identity} opens at {heard.sample_rate_hz} Hz, but gave"
                f" {heard.seconds:.1f} s of sound in {heard.asked_seconds:.1f} s: it stops",
                "check its plug and its power; plug it into a port of its own, without a hub",
            )
        ]
    if is_microphone:
        findings += rate_findings(heard)
    if heard.overruns:
        findings.append(
            problem(
                "overruns",
                f"sound was lost {heard.overruns} times in {heard.seconds:.1f} s",
                "plug it into a port of its own, without a hub; stop other programs; check power",
            )
        )
    findings += channel_findings(heard.channels_dbfs, heard.mixed_dbfs)
    levels = level_findings(heard.level)
    if heard.health_note is not None and not count(levels, Grade.PROBLEM):
        # What no level shows: a buffer that repeats itself.
        levels.append(problem("microphone", heard.health_note))
    return [*findings, *levels]


def _has_stopped(heard: Listening) -> bool:
    """Whether much less sound came than was waited for."""
    asked = heard.asked_seconds
    if asked is None:
        return False
    return heard.seconds < min(_LEAST_SHARE * asked, asked - _START_GAP_SECONDS)


def rate_findings(heard: Listening) -> list[Finding]:
    """Whether the device delivers as many samples a second as it says."""
    if heard.delivered_hz is None:
        return []
    said = heard.sample_rate_hz
    off = heard.delivered_hz / said - 1
    tolerance = _RATE_TOLERANCE + _STAMP_SECONDS / heard.delivered_seconds
    measured = f"{heard.delivered_hz:.0f} Hz measured in {heard.delivered_seconds:.1f} s"
    if abs(off) <= tolerance:
        return [ok("rate", f"{measured}, {said} Hz stated")]
    return [
        problem(
            "rate",
            f"{measured}, but {said} Hz stated ({off:+.1%}): every frequency is heard shifted",
            "plug it into another port, without a hub, or try another microphone",
        )
    ]


def microphone_error(error: SourceError, *, node_runs: bool) -> Finding:
    """Why the microphone was not heard; a node that runs here explains some of it."""
    if node_runs and error.reason == "busy":
        # The lock tells that the node runs, not that it has the microphone.
        return warning(
            "microphone",
            "in use: by the node, which is running here, or by another program for which it waits",
            "the node's log tells which; stop the node to have its level measured here",
        )
    return problem("microphone", str(error))


def microphones_finding(microphones: Sequence[Microphone], identity: str) -> Finding | None:
    """What is known of the microphone that was opened; None if it is none of those listed."""
    for microphone in microphones:
        if identity in (microphone.key, *microphone.aliases):
            channels = microphone.max_input_channels
            plural = "channel" if channels == 1 else "channels"
            return ok(
                "device", f"{microphone.name} ({microphone.host_api}), up to {channels} {plural}"
            )
    return None


def headroom_finding(latencies_ms: Sequence[float], manifest: Manifest) -> Finding:
    """Whether windows are scored fast enough: the 95th percentile against the hop."""
    p95_ms = float(np.percentile(latencies_ms, 95))
    hop_ms = manifest.hop_us / 1000
    load = p95_ms / hop_ms
    found = (
        f"a window is scored in {p95_ms:.1f} ms (95th percentile of {len(latencies_ms)}),"
        f" {math.ceil(load * 100)} % of the hop of {hop_ms:.0f} ms"
    )
    if load > _PROBLEM_LOAD:
        return problem("cpu", found, "stop other programs, cool the board, or use a smaller model")
    if load > _WARNING_LOAD:
        return warning("cpu", found, "little is left for other programs and for trying updates")
    return ok("cpu", found)


def _noise(samples: int) -> Float32Array:
    return np.random.default_rng(1).normal(0.0, 0.05, samples).astype(np.float32)
