"""`python -m collector command`: what is told, and what is refused before anybody is asked."""

import pytest

from collector.__main__ import main
from contract.errors import EXIT_BAD_INPUT
from tests.servers import free_port


def tell(*arguments: str) -> int:
    """To a broker that is not there."""
    broker = ("--broker", f"127.0.0.1:{free_port()}", "--seconds", "0.5")
    return main(["command", "press-07", *arguments, *broker])


@pytest.mark.parametrize("option", [("--minutes", "5"), ("--cancel",)])
def test_rollback_takes_no_minutes(
    option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A calibration's options beside it are a mistake that is told before a broker is sought."""
    code = tell("rollback", *option)

    assert code == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "earshot collector: rollback takes no minutes and cannot be cancelled: --minutes and"
        " --cancel are for calibrate\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [("rollback",), ("calibrate",), ("calibrate", "--minutes", "5"), ("calibrate", "--cancel")],
)
def test_every_verb_gets_as_far_as_the_broker(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the options that belong to it."""
    code = tell(*arguments)

    assert code == EXIT_BAD_INPUT
    assert "no answer within 0.5 s from the broker at 127.0.0.1" in capsys.readouterr().err


def test_unknown_verb_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Argparse's own words name them."""
    with pytest.raises(SystemExit):
        tell("explode")

    error = capsys.readouterr().err
    assert "calibrate" in error
    assert "rollback" in error
