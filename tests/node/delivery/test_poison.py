"""A message upon which the broker hangs up, told from a link that breaks."""

from collections.abc import Hashable

import pytest

from node.delivery.poison import Suspicion


def dropped(
    suspicion: Suspicion, *names: Hashable, seconds: float = 0.1, has_worked: bool = True
) -> Hashable | None:
    return suspicion.dropped(list(names), seconds=seconds, has_worked=has_worked)


def test_third_time_alone_is_enough() -> None:
    """Three connections in a row end at once upon one message: that one is given up."""
    suspicion = Suspicion()

    assert [dropped(suspicion, "a") for _ in range(4)] == [None, None, "a", None]


@pytest.mark.parametrize(
    ("names", "seconds", "has_worked"),
    [
        (("b",), 0.1, True),
        (("a", "b"), 0.1, True),
        ((), 0.1, True),
        (("a",), 6.0, True),
        (("a",), 0.1, False),
    ],
    ids=["another", "not alone", "nothing", "later", "never worked"],
)
def test_anything_else_in_between_begins_anew(
    names: tuple[str, ...], seconds: float, has_worked: bool
) -> None:
    """Another message, several at once, or a link that is bad anyway, is no proof."""
    suspicion = Suspicion()

    found = [dropped(suspicion, "a"), dropped(suspicion, "a")]
    found.append(dropped(suspicion, *names, seconds=seconds, has_worked=has_worked))
    found += [dropped(suspicion, "a"), dropped(suspicion, "a")]

    assert found == [None] * 5
    assert dropped(suspicion, "a") == "a"


def test_messages_go_out_one_by_one_for_a_while_after_a_drop() -> None:
    """Long enough to find the one among the fifty windows of a message."""
    suspicion = Suspicion()
    before = suspicion.careful
    dropped(suspicion, "a", "b")
    careful = []
    for _ in range(51):
        careful.append(suspicion.careful)
        suspicion.confirmed()

    assert not before
    assert careful == [True] * 50 + [False]


def test_bad_link_slows_nothing_down() -> None:
    """A connection that ends for reasons of its own leaves messages as large as they were."""
    suspicion = Suspicion()

    dropped(suspicion, "a", seconds=30.0)

    assert not suspicion.careful
