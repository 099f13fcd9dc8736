"""What a node knows of its releases: what runs, what ran before, what is tried, what was refused.

States and refusals are values; each transition is a function from one state to the next. How a
state is written is here as well (`encode_state`), where it is written is not: `node.updates.slots`
keeps it, in step with the folders on the disk (`node.updates.release_folders`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from contract.desired import Desired
from contract.errors import EarshotError
from contract.messages import Count, ModelLabel, Positive, Sha256, Text, TimeUs
from contract.states import UpdatePhase

MAX_STARTS = 3
"""Of a release that is on trial or not confirmed: after so many crashes it is left."""
MAX_STATE_BYTES = 1024 * 1024

_MAX_REFUSED = 16
_MAX_REASON = 200
_UNUSABLE = (msgspec.MsgspecError, EarshotError, UnicodeDecodeError, RecursionError)


class StateUnusableError(EarshotError):
    """The bytes are not a state as it was written."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A release on this node."""

    release: ModelLabel
    manifest_sha256: Sha256
    """Of `manifest.json`, byte by byte: what orders name it by."""
    factory: bool = False
    """Whether it is the one of [model] folder, which nothing here ever writes to."""

    @property
    def folder_name(self) -> str:
        """Its folder's name among the releases in the state folder."""
        return f"{self.release.replace('@', '-')}-{self.manifest_sha256[:12]}"

    @property
    def version(self) -> int:
        """The number after the release's name."""
        return int(self.release.rpartition("@")[2])


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was not taken on, or not kept."""

    manifest_sha256: Sha256
    release: ModelLabel | None = None
    """The release's label, for people."""
    serial: Count
    """Serial of the order that asked for it."""
    phase: UpdatePhase
    """Whether it was rejected or rolled back."""
    reason: Text
    at_us: TimeUs
    retry: bool
    """Passing trouble (a full disk, a chunk that is missing): tried again later. Else only when an
    order with a higher serial asks for it."""


class UpdateState(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must know of its releases at its next start."""

    format: Literal[1] = 1
    factory: Slot
    current: Slot
    previous: Slot | None
    """What a roll-back goes to."""
    confirmed: bool = True
    """Whether the current release has stayed up for as long as it must."""
    trying: Slot | None = None
    """What is on trial beside the current one: that, too, may bring the program down."""
    starts: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the program with a release that is on trial or not confirmed, the first one included;
    those that end well do not count."""
    highest: dict[str, int] = {}
    """Per release name the highest version that was ever kept. No step below without an order
    that allows it, also when the folder of that version has gone."""
    thresholds: dict[str, Positive] = {}
    """Per manifest (its SHA-256) the threshold that an order gives in place of the release's."""
    orders: dict[str, Desired] = {}
    """Per address the last order that was accepted: its serial counts."""
    refused: tuple[Refused, ...] = ()
    """The newest refusals, the last one last."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Current, previous, factory; each once."""
        found = (self.current, self.previous, self.factory)
        return tuple(dict.fromkeys(slot for slot in found if slot is not None))

    @property
    def doubtful(self) -> Slot | None:
        """What may bring the program down: the release on trial, or one that is not confirmed."""
        if self.confirmed:
            return self.trying
        # Without another one to run there is nothing to doubt.
        return None if self.fallback == self.current else self.current

    @property
    def fallback(self) -> Slot:
        """What runs where the current release is left."""
        return self.previous or self.factory


def first_state(factory: Slot, found: Iterable[Slot]) -> UpdateState:
    """With no state (a new node, or one whose file was damaged): the factory's release.

    The versions of what lies here are not forgotten, though some may never have been kept: one that
    is too high asks for an order that allows older ones, one that is too low would let somebody
    play back an old release.

    Args:
        factory: the release of [model] folder.
        found: the releases that lie in the state folder.
    """
    highest = _raised({}, factory)
    for slot in found:
        highest = _raised(highest, slot)
    return UpdateState(factory=factory, current=factory, previous=None, highest=highest)


def with_factory(state: UpdateState, factory: Slot) -> UpdateState:
    """A person has put another model there, and is to hear that one, as far as orders let him."""
    ran = state.current if state.confirmed else state.previous
    return msgspec.structs.replace(
        state,
        factory=factory,
        current=factory,
        # The factory's release of before is no more.
        previous=None if ran is None or ran.factory else ran,
        confirmed=True,
        trying=None,
        starts=0,
        highest=_raised(state.highest, factory),
    )


def switched(state: UpdateState, slot: Slot) -> UpdateState:
    """The release runs from now on, and has to prove itself; this run is its first start."""
    # What is not confirmed yet is nothing to go back to.
    previous = state.current if state.confirmed else state.previous
    return msgspec.structs.replace(
        state,
        current=slot,
        previous=None if previous == slot else previous,
        confirmed=False,
        trying=None,
        starts=1,
    )


def trial_begun(state: UpdateState, slot: Slot) -> UpdateState:
    """The release is tried within this program, beside the one that runs."""
    return msgspec.structs.replace(state, trying=slot, starts=1)


def trial_ended(state: UpdateState) -> UpdateState:
    """The program has outlived the trial, or nobody wants to know any more."""
    return msgspec.structs.replace(state, trying=None, starts=0)


def current_confirmed(state: UpdateState) -> UpdateState:
    """The current release stays: from now on nothing below its version is taken."""
    return msgspec.structs.replace(
        state, confirmed=True, starts=0, highest=_raised(state.highest, state.current)
    )


def start_counted(state: UpdateState) -> UpdateState:
    """The program starts once more with a release that is doubtful."""
    return msgspec.structs.replace(state, starts=state.starts + 1)


def start_ended_well(state: UpdateState) -> UpdateState:
    """A start that was counted was no crash."""
    return msgspec.structs.replace(state, starts=state.starts - 1)


def refusing(state: UpdateState, refused: Refused) -> UpdateState:
    """The refusal is remembered, in place of an earlier one of the same release."""
    others = [r for r in state.refused if r.manifest_sha256 != refused.manifest_sha256]
    return msgspec.structs.replace(state, refused=(*others, refused)[-_MAX_REFUSED:])


def gone_back(state: UpdateState, slot: Slot, refused: Refused) -> UpdateState:
    """The current release is left for another one, which is trusted.

    Args:
        state: before.
        slot: what runs from now on.
        refused: why the current release does not.
    """
    return msgspec.structs.replace(
        refusing(state, refused), current=slot, previous=None, confirmed=True, starts=0
    )


def doubtful_left(state: UpdateState, refused: Refused) -> UpdateState:
    """What is doubtful is left: its trial is not begun again, or what ran before runs again."""
    if state.confirmed:
        return refusing(trial_ended(state), refused)
    return gone_back(state, state.fallback, refused)


def rolled_back(state: UpdateState, slot: Slot, reason: str, *, at_us: int, retry: bool) -> Refused:
    """The refusal of a release that was run or tried.

    Args:
        state: whose orders may ask for the release.
        slot: the release.
        reason: why, for people; cut at 200 characters.
        at_us: microseconds since 1970.
        retry: see `Refused`.
    """
    return Refused(
        manifest_sha256=slot.manifest_sha256,
        release=slot.release,
        serial=_serial_of(state, slot),
        phase=UpdatePhase.ROLLED_BACK,
        reason=reason[:_MAX_REASON],
        at_us=at_us,
        retry=retry,
    )


def encode_state(state: UpdateState) -> bytes:
    """The state as it is written: JSON, with the SHA-256 of its own bytes."""
    content = msgspec.json.encode(state)
    return msgspec.json.encode(_Framed(sha256=sha256_of(content), state=msgspec.Raw(content)))


def decode_state(content: bytes) -> UpdateState:
    """The state that was written.

    Raises:
        StateUnusableError: it was another, or none.
    """
    try:
        framed = _FRAMED.decode(content)
        if sha256_of(bytes(framed.state)) == framed.sha256:
            return _STATE.decode(framed.state)
    except _UNUSABLE as error:
        raise StateUnusableError(f"cannot be used: {error}") from error
    raise StateUnusableError("is not what was written there")


def sha256_of(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


class _Framed(msgspec.Struct, frozen=True):
    """A state with its digest: one wrong bit may make a lower version, and still be JSON."""

    sha256: str
    state: msgspec.Raw


_FRAMED = msgspec.json.Decoder(_Framed)
_STATE = msgspec.json.Decoder(UpdateState)


def _raised(highest: Mapping[str, int], slot: Slot) -> dict[str, int]:
    name = slot.release.rpartition("@")[0]
    return {**highest, name: max(slot.version, highest.get(name, 0))}


def _serial_of(state: UpdateState, slot: Slot) -> int:
    """Of the newest order that asks for a release; 0 if none does."""
    return max(
        (
            order.serial
            for order in state.orders.values()
            for wanted in (order.wanted, order.before)
            if wanted is not None and wanted.manifest_sha256 == slot.manifest_sha256
        ),
        default=0,
    )
