"""Sound from a microphone, by way of the capture program (`node.sound.capture`) in a child process.

Not here: resampling, when to try again after a `SourceError` (`node.sound.healing`), and what
silence means (`node.sound.microphone_health`).
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Final, Literal, NoReturn, Self, TypeVar

import msgspec
import numpy as np

from node.sound import capture_records
from node.sound.capture_records import ProblemReason, RecordHeader, RecordKind
from node.sound.errors import SourceError
from node.sound.microphone_health import FULL_SCALE
from node.sound.source import Block

CAPTURE_COMMAND: Final = (sys.executable, "-m", "node.sound.capture")

ANSWER_SECONDS: Final = 20.0
"""A Pi Zero needs some seconds to start Python; PortAudio tries every device in turn."""
_END_SECONDS: Final = 2.0
_KILL_SECONDS: Final = 0.5
"""A killed process is gone in milliseconds, unless it hangs in a driver; then nothing helps."""
_READ_BYTES: Final = 1 << 16
_MAX_TEXT: Final = 300

_Decoded = TypeVar("_Decoded")

_HANGING: Final[list[subprocess.Popen[bytes]]] = []
"""Killed children that a driver holds on to, so that they are no zombies once it lets go."""


class Microphone(msgspec.Struct, frozen=True, kw_only=True):
    """A microphone that is plugged in now, with the key that settings name it by."""

    key: str
    """Names it in settings; the same after a reboot, and never an index."""
    name: str
    host_api: str
    default_sample_rate_hz: int
    max_input_channels: int
    is_default: bool
    aliases: tuple[str, ...] = ()
    """Other keys by which settings may name this microphone."""


class _Problem(msgspec.Struct, frozen=True):
    reason: ProblemReason
    message: str


class _Listing(msgspec.Struct, frozen=True):
    microphones: list[Microphone] | None = None
    problem: _Problem | None = None


class _Hello(msgspec.Struct, frozen=True):
    identity: str
    sample_rate_hz: Annotated[int, msgspec.Meta(ge=1000, le=1_000_000)]
    channels: Annotated[int, msgspec.Meta(ge=1, le=256)]
    sample_format: Literal["float32"]


def list_microphones(
    *, command: Sequence[str] = CAPTURE_COMMAND, timeout_seconds: float = ANSWER_SECONDS
) -> list[Microphone]:
    """The microphones that are plugged in now, asked in a fresh process.

    Raises:
        SourceError: nobody can tell, for instance without PortAudio.
    """
    try:
        done = subprocess.run(
            [*command, "--list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            "no_answer",
            f"Expected a list of microphones within {timeout_seconds:g} s, got none:"
            " unplug audio devices that hang",
        ) from error
    except OSError as error:
        raise _not_started(command, error) from error
    if not done.stdout:
        raise SourceError("died", _obituary(done.returncode, done.stderr))
    listing = _decoded(done.stdout, _Listing)
    if listing.problem is not None:
        raise SourceError(listing.problem.reason, _one_line(listing.problem.message))
    if listing.microphones is None:
        raise _malformed("Expected microphones or a problem, got neither")
    return listing.microphones


class MicrophoneSource:
    """One microphone, which is open while this source is entered.

    Entering starts the capture program, leaving ends it; it may be entered again. After a
    `SourceError` every `read` raises it again.

    Whoever must not wait calls `start`, `is_open` until it is true, and `kill` instead.
    """

    def __init__(
        self,
        device: str,
        *,
        channel: int | None,
        command: Sequence[str] | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Names the microphone; nothing is opened yet.

        Args:
            device: `key` or alias of a `Microphone`, or `default`.
            channel: which channel to hear, from 0; None mixes all of them.
            command: the capture program, to which its options are added.
            answer_seconds: how long it may take to open the microphone.
        """
        self._device = device
        self._channel = channel
        self._command = tuple(command or CAPTURE_COMMAND)
        self._answer_seconds = answer_seconds
        self._child: _Child | None = None
        self._hello: _Hello | None = None
        self._failure: SourceError | None = None
        self._answer_by = 0.0
        self.overruns = 0
        """How often sound was lost since entering: in the device, or because `read` came late."""

    reopened = 0
    """It does not open again by itself; see `node.sound.healing`."""
    outage = None

    @property
    def identity(self) -> str:
        """The stable key of the microphone that was opened, also when `default` was asked."""
        return self._opened.identity

    @property
    def sample_rate_hz(self) -> int:
        """The device's own sample rate, in hertz."""
        return self._opened.sample_rate_hz

    def __enter__(self) -> Self:
        self.start()
        try:
            while not self.is_open(self._answer_seconds):
                pass
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Starts the capture program, without waiting for the microphone to open.

        Raises:
            SourceError: it does not even start.
        """
        self._failure = None
        self._hello = None
        self.overruns = 0
        options = ["--device", self._device, "--rate", "native", "--channels", "all"]
        self._child = _Child([*self._command, *options])
        self._answer_by = time.monotonic() + self._answer_seconds

    def is_open(self, timeout_seconds: float) -> bool:
        """Whether the microphone has opened; waits for that until the time is out.

        Raises:
            SourceError: it does not open, or has not within `answer_seconds`.
        """
        if self._hello is None:
            record = self._entered.next_record(
                min(self._answer_by, time.monotonic() + timeout_seconds)
            )
            if record is not None:
                self._hello = self._greeted(*record)
            elif time.monotonic() >= self._answer_by:
                raise SourceError(
                    "no_answer",
                    f"Expected microphone {self._device} to open within {self._answer_seconds:g} s,"
                    " got no answer: unplug it and plug it in again",
                )
        return self._hello is not None

    def kill(self) -> None:
        """Ends the capture program at once, also one that is stopped or hangs."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def read(self, timeout_seconds: float) -> Block | None:
        """The next stretch of sound; None when none came in time.

        Raises:
            SourceError: no more sound will come.
        """
        if self._failure is not None:
            raise self._failure
        deadline = time.monotonic() + timeout_seconds
        try:
            while (record := self._entered.next_record(deadline)) is not None:
                header, payload = record
                if header.kind == RecordKind.SOUND:
                    return self._block(header, payload)
                if header.kind == RecordKind.PROBLEM:
                    _raise_problem(payload)
        except SourceError as failure:
            self._failure = failure
            raise
        return None

    def _greeted(self, header: RecordHeader, payload: bytes) -> _Hello:
        if header.kind == RecordKind.PROBLEM:
            _raise_problem(payload)
        if header.kind != RecordKind.HELLO:
            raise _malformed(f"Expected a hello first, got a record of kind {header.kind}")
        hello = _decoded(payload, _Hello)
        if self._channel is not None and not 0 <= self._channel < hello.channels:
            raise SourceError(
                "bad_format",
                f"Expected channel {self._channel} of microphone {hello.identity}, got a microphone"
                f" with channels 0 to {hello.channels - 1}: choose one of them",
            )
        return hello

    def _block(self, header: RecordHeader, payload: bytes) -> Block:
        channels = self._opened.channels
        expected_bytes = header.frames * channels * np.dtype(np.float32).itemsize
        if header.frames == 0 or len(payload) != expected_bytes:
            raise _malformed(
                f"Expected {header.frames} frames of {channels} channels in {expected_bytes} bytes,"
                f" got {len(payload)} bytes"
            )
        lost = header.overruns + header.dropped_blocks
        continuous, self.overruns = lost == self.overruns, lost
        frames = np.frombuffer(payload, dtype=np.float32).reshape(-1, channels)
        heard = frames.mean(axis=1) if self._channel is None else frames[:, self._channel]
        clipped = None
        powers: tuple[float, ...] = ()
        if self._channel is None and channels > 1:
            powers = tuple(float(power) for power in frames.var(axis=0, dtype=np.float64))
            # The mean of one channel at full scale and one below it is below it.
            clipped = float(np.mean(np.abs(frames) >= FULL_SCALE, axis=0).max())
        return Block(
            samples=np.clip(heard, -1.0, 1.0),
            captured_monotonic_ns=header.captured_monotonic_ns,
            continuous=continuous,
            lost=not continuous,
            channel_powers=powers,
            clipped=clipped,
        )

    @property
    def _entered(self) -> "_Child":
        if self._child is None:
            raise RuntimeError("Expected an entered MicrophoneSource, got one that is not")
        return self._child

    @property
    def _opened(self) -> _Hello:
        if self._hello is None:
            raise RuntimeError("Expected a MicrophoneSource that was entered, got a new one")
        return self._hello

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """The capture program and the records that it writes."""

    def __init__(self, command: Sequence[str]) -> None:
        _HANGING[:] = [process for process in _HANGING if process.poll() is None]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Control-C is for us alone; we end the child when we are done with it.
                process_group=0,
            )
        except OSError as error:
            raise _not_started(command, error) from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out = self._process.stdout.fileno()
        self._errors = self._process.stderr.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)
        self._selector.register(self._errors, selectors.EVENT_READ)
        self._unread = bytearray()
        self._last_words = b""

    def next_record(self, deadline: float) -> tuple[RecordHeader, bytes] | None:
        """The next record of any kind, or None at the deadline (`time.monotonic`).

        Raises:
            SourceError: the child died, or wrote something else than records.
        """
        while (record := self._taken()) is None:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            descriptors = {key.fd for key, _ in ready}
            if self._errors in descriptors:
                self._read_errors()
            if self._out in descriptors:
                self._read_records()
            elif time.monotonic() >= deadline:
                return None
        return record

    def end(self) -> None:
        """End the child process, whatever it is doing."""
        process = self._process
        assert process.stdin is not None
        process.stdin.close()
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._close()

    def kill(self) -> None:
        """Ends the child without asking it; does not wait for one that hangs in the kernel."""
        self._process.kill()
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            _HANGING.append(self._process)
        self._close()

    def _close(self) -> None:
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _taken(self) -> tuple[RecordHeader, bytes] | None:
        start = capture_records.HEADER.size
        if len(self._unread) < start:
            return None
        try:
            header = capture_records.decode_header(bytes(self._unread[:start]))
        except ValueError as error:
            raise _malformed(str(error)) from error
        end = start + header.payload_bytes
        if len(self._unread) < end:
            return None
        payload = bytes(self._unread[start:end])
        del self._unread[:end]
        return header, payload

    def _read_records(self) -> None:
        data = os.read(self._out, _READ_BYTES)
        if not data:
            self._raise_end()
        self._unread += data

    def _read_errors(self) -> None:
        # ALSA talks a lot; only what was said last can explain an end.
        data = os.read(self._errors, _READ_BYTES)
        if not data:
            self._selector.unregister(self._errors)
        self._last_words = (self._last_words + data)[-4 * _MAX_TEXT :]

    def _raise_end(self) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        text = _obituary(self._process.returncode, self._last_words)
        if self._unread:
            raise _malformed(
                f"Expected a whole record, got {len(self._unread)} bytes of one. {text}"
            )
        raise SourceError("died", text)


def _raise_problem(payload: bytes) -> NoReturn:
    problem = _decoded(payload, _Problem)
    raise SourceError(problem.reason, _one_line(problem.message))


def _decoded(payload: bytes, kind: type[_Decoded]) -> _Decoded:
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError as error:
        raise _malformed(str(error)) from error


def _malformed(text: str) -> SourceError:
    return SourceError(
        "malformed", f"The capture program does not speak our protocol, reinstall earshot. {text}"
    )


def _not_started(command: Sequence[str], error: OSError) -> SourceError:
    return SourceError(
        "died", f"The capture program {command[0]} does not start, reinstall earshot: {error}"
    )


def _obituary(status: int | None, errors: bytes) -> str:
    """How the child ended and the last thing that it said."""
    if status is None:
        how = "closed its output"
    elif status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    else:
        how = f"ended with status {status}"
    lines = errors.decode(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.strip()), "nothing")
    # Linux kills whoever it likes when memory is short.
    return (
        f"The capture program {how}: if it goes on, look for its end in `journalctl -k`; it said"
        f" last: {_one_line(said)}"
    )


def _one_line(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:_MAX_TEXT]
