"""What `make test` leans on: groups of tests, and what is shown of a run."""

import pytest

from tests.rig.progress import Progress, skips


@pytest.mark.xdist_group("one worker")
def test_a_group_stands_where_workers_look_for_it(request: pytest.FixtureRequest) -> None:
    """A worker finds the group of a test in its id; lost, costly fixtures are made many times."""
    grouped = bool(getattr(request.config.option, "loadgroup", False))

    assert request.node.nodeid.endswith("@one worker") == grouped


def _report(test: str, when: str = "call", outcome: str = "passed") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=test,
        location=("", 0, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=("file", 1, "Skipped: mosquitto is not installed"),
        when=when,  # type: ignore[arg-type]
    )


def test_a_file_is_shown_once_all_its_tests_have_run() -> None:
    """Whatever the order in which they end: how far the run is, the file, and what came of it."""
    lines: list[str] = []
    progress = Progress(lambda text, **color: lines.append(text))
    progress.expect(["a.py::one", "a.py::two@group", "b.py::three", "b.py::four"])
    progress.expect(["a.py::one"])

    for test in ("a.py::one", "b.py::three", "a.py::two@group"):
        progress.pytest_runtest_logreport(_report(test))
        progress.pytest_runtest_logreport(_report(test, "teardown"))

    (line,) = lines
    assert line.split() == ["75%", "0:00", "a.py", "2", "passed"]


def test_a_failure_is_named_at_once() -> None:
    """Nobody waits for the end of a run to learn that something is wrong."""
    lines: list[str] = []
    progress = Progress(lambda text, **color: lines.append(text))
    progress.expect(["a.py::one@group", "a.py::two"])

    progress.pytest_runtest_logreport(_report("a.py::one@group", "setup", "failed"))

    (line,) = lines
    assert line.split() == ["0%", "0:00", "FAILED", "a.py::one", "(setup)"]


def test_skips_are_counted_by_their_reason() -> None:
    """The commonest reason first, in the words of who skipped."""
    reports = [_report("a.py::one", outcome="skipped"), _report("a.py::two", outcome="skipped")]

    assert skips(reports) == ["   2 tests  mosquitto is not installed"]
