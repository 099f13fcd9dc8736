"""Questions at a terminal."""

from collections.abc import Iterator

import pytest

from node.commands.questions import NoAnswerError, Questions


class Person:
    """Types one line after the other, and remembers what was on the screen."""

    def __init__(self, *lines: str) -> None:
        self.screen: list[str] = []
        self._lines: Iterator[str] = iter(lines)
        self.questions = Questions(self._type, self._type, self.screen.append)

    def _type(self, prompt: str) -> str:
        self.screen.append(prompt)
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        return line


def test_empty_line_takes_the_default() -> None:
    """The default stands in brackets and is parsed like an answer."""
    person = Person("")

    assert person.questions.ask("How many", int, default="7") == 7
    assert person.screen == ["How many [7]: "]


def test_wrong_answer_is_asked_again() -> None:
    """The reason is told, and the question comes again until an answer will do."""
    person = Person("many", " 3 ")

    assert person.questions.ask("How many", int) == 3
    assert "invalid literal" in person.screen[1]
    assert person.screen[0] == person.screen[2]


def test_choice_by_number_or_by_name() -> None:
    """A number is the place of a choice, anything else is parsed, a number too high asked again."""
    person = Person("3", "2", "mine")

    assert person.questions.ask_choice("Which", ["a", "b"], str.upper, "1") == 1
    assert person.questions.ask_choice("Which", ["a", "b"], str.upper, "1") == "MINE"
    assert "  Expected 1 to 2, got 3" in person.screen


@pytest.mark.parametrize(
    ("typed", "expected"), [("", True), ("n", False), ("Yes", True), ("NO", False)]
)
def test_yes_or_no(typed: str, expected: bool) -> None:
    """Short and long forms in either case; an empty line is the default."""
    assert Person(typed).questions.ask_yes("Sure", default=True) is expected


def test_neither_yes_nor_no_is_asked_again() -> None:
    """Another word is no answer."""
    person = Person("perhaps", "y")

    assert person.questions.ask_yes("Sure", default=False)
    assert "  Expected y or n" in person.screen


def test_secret_keeps_its_blanks() -> None:
    """A password is taken as it was typed."""
    assert Person(" a b ").questions.ask_secret("Password") == " a b "


def test_end_of_input_ends_the_questions() -> None:
    """Ctrl-D is told in one line."""
    with pytest.raises(NoAnswerError, match="nothing was written"):
        Person().questions.ask("How many", int)
