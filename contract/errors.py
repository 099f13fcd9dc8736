"""Errors that cross package borders; each subclass says what the caller does next.

A program's `__main__` turns any `EarshotError` into one line on standard error and exit code
`EXIT_BAD_INPUT`; everything else is a bug and keeps its traceback.
"""

from collections.abc import Sequence
from typing import Literal

EXIT_BAD_INPUT = 2
"""The exit code for input, settings or surroundings that do not let a program start or finish."""

MessageFault = Literal["oversize", "malformed", "schema", "wrong_topic"]
"""Why a message cannot be stored: over its size bound, not the JSON that its type asks for, of
another schema version, or on a topic that does not match what it says."""


class EarshotError(Exception):
    """Root of all errors that a user can act on; its text is one line that says how."""


class SettingsError(EarshotError):
    """Settings that cannot be used: fix every problem listed, then start again."""

    def __init__(self, origin: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{origin}: " + "; ".join(self.problems))


class TopicError(EarshotError):
    """A topic, or a part of one, that is not in the contract: drop the message."""


class MessageError(EarshotError):
    """A message that can never be stored: dead-letter it and go on."""

    def __init__(self, reason: MessageFault, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class ReleaseError(EarshotError):
    """A release that must not be used: keep the model that runs."""


SignatureFault = Literal["oversize", "unsigned", "wrong_type", "unknown_key", "wrong_signature"]
"""Why nobody's word is behind something: over its size bound, no signed envelope, one of another
thing, signed by nobody who is trusted, or not what was signed."""


class SignatureError(EarshotError):
    """Something that claims to be an operator's word and is not: drop it, and say so."""

    def __init__(self, reason: SignatureFault, text: str) -> None:
        self.reason = reason
        super().__init__(text)


class KeyFileError(EarshotError):
    """A key that cannot be used: name another file, or give its pass phrase."""


class FeatureError(EarshotError):
    """Feature parameters that contradict each other, or sound that does not fit them."""


class ConnectionRefusedByBrokerError(EarshotError):
    """The broker answered and said no; trying again with the same settings will not help."""


class BrokerUnreachableError(EarshotError):
    """No connection to the broker in time, or one that is gone: start again once it is there."""


class PayloadTooLargeError(EarshotError):
    """More bytes than the broker takes in one packet; sending it would end the connection."""
