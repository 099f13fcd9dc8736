"""Questions to somebody at a terminal: a default in brackets, asked until the answer will do."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from contract.errors import EarshotError

Answer = TypeVar("Answer")


class NoAnswerError(EarshotError):
    """Nobody answers, or nobody does any more: do nothing."""


class Questions:
    """Asks one thing at a time.

    Args:
        read_line: shows a prompt and gives the line that was typed; `input` is one.
        read_secret: the same without showing what is typed; `getpass.getpass` is one.
        say: tells one line.
    """

    def __init__(
        self,
        read_line: Callable[[str], str],
        read_secret: Callable[[str], str],
        say: Callable[[str], None],
    ) -> None:
        self._read_line = read_line
        self._read_secret = read_secret
        self.say = say

    def ask(
        self, question: str, parse: Callable[[str], Answer], *, default: str | None = None
    ) -> Answer:
        """The answer, when `parse` takes it.

        Args:
            question: without a question mark at its end.
            parse: turns the text into what is wanted; raises ValueError or EarshotError with the
                reason if it will not do.
            default: taken for an empty line; None means that an empty line is parsed as it is.

        Raises:
            NoAnswerError: the input has ended.
        """
        prompt = f"{question}: " if not default else f"{question} [{default}]: "
        while True:
            text = self._typed(self._read_line, prompt) or default or ""
            try:
                return parse(text)
            except (ValueError, EarshotError) as error:
                self.say(f"  {error}")

    def ask_yes(self, question: str, *, default: bool) -> bool:
        """Yes or no."""
        prompt = f"{question} [{'Y/n' if default else 'y/N'}]: "
        while True:
            text = self._typed(self._read_line, prompt).lower()
            if not text:
                return default
            if text in ("y", "yes", "n", "no"):
                return text.startswith("y")
            self.say("  Expected y or n")

    def ask_choice(
        self, question: str, choices: Sequence[str], parse: Callable[[str], Answer], default: str
    ) -> Answer | int:
        """The place of one of the choices (typed as its number, from 1), or something else."""
        for number, choice in enumerate(choices, start=1):
            self.say(f"  {number}  {choice}")

        def chosen(text: str) -> Answer | int:
            if text.isdecimal():
                if not 1 <= int(text) <= len(choices):
                    raise ValueError(f"Expected 1 to {len(choices)}, got {text}")
                return int(text) - 1
            return parse(text)

        return self.ask(question, chosen, default=default)

    def ask_secret(self, question: str) -> str:
        """What is not shown while it is typed; may be empty."""
        return self._typed(self._read_secret, f"{question}: ", strip=False)

    def _typed(self, read: Callable[[str], str], prompt: str, *, strip: bool = True) -> str:
        try:
            text = read(prompt)
        except EOFError:
            self.say("")
            raise NoAnswerError("No more answers: nothing was written") from None
        return text.strip() if strip else text
