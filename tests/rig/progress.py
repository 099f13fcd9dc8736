"""What `make test` shows: each file when all its tests have run, and at the end what was not run.

A plugin for pytest (`-p tests.rig.progress`), with workers of pytest-xdist and without. Failures
are named at once; their texts come at the end, as always.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import pytest


class Progress:
    """Counts tests by file; lives in the process that writes to the terminal.

    Args:
        write_line: writes a line to the terminal, in a colour.
    """

    def __init__(self, write_line: Callable[..., None]) -> None:
        self._write_line = write_line
        self._started = time.monotonic()
        self._left: Counter[str] = Counter()
        """Tests that have still to run, by file."""
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._total = 0

    def expect(self, ids: Sequence[str]) -> None:
        """Take it that these tests will run; further workers say the same again."""
        if not self._total:
            self._left.update(map(_file_of, ids))
            self._total = len(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        self.expect(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """No letters: what goes as it should is told by file, and what does not by its name."""
        if not isinstance(report, pytest.TestReport) or hasattr(report, "wasxfail"):
            return None
        if report.failed:
            return ("failed" if report.when == "call" else "error", "", "")
        counted = report.when == "call" or report.skipped
        return (report.outcome if counted else "", "", "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = _file_of(report.nodeid)
        if report.failed:
            test = report.nodeid.rpartition("@")[0] or report.nodeid
            self._write_line(f"{self._how_far()} FAILED {test} ({report.when})", red=True)
        if report.failed or report.skipped or report.when == "call":
            self._outcomes[file][report.outcome] += 1
        if report.when == "teardown":
            self._left[file] -= 1
            if not self._left[file]:
                del self._left[file]
                self._tell(file)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = skips(terminalreporter.getreports("skipped"))
        if not lines:
            terminalreporter.write_line("Nothing was skipped.")
            return
        terminalreporter.section("what was not run here, and why")
        for line in lines:
            terminalreporter.write_line(line)

    def _tell(self, file: str) -> None:
        counts = self._outcomes.pop(file)
        kinds = ("passed", "failed", "skipped")
        words = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
        color = {"red" if counts["failed"] else "green": True}
        self._write_line(f"{self._how_far()} {file}  {words}", **color)

    def _how_far(self) -> str:
        done = self._total - self._left.total()
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        return f"{100 * done // max(self._total, 1):4}% {minutes:2}:{seconds:02}"


def skips(reports: Iterable[pytest.TestReport]) -> list[str]:
    """A line for each reason for which tests were skipped, the commonest first."""
    reasons: Counter[str] = Counter()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason was given"
        reasons[reason.removeprefix("Skipped: ")] += 1
    return [
        f"{count:4} {'test ' if count == 1 else 'tests'}  {reason}"
        for reason, count in reasons.most_common()
    ]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Nothing in a worker of pytest-xdist: what it finds is told by the process that started it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(reporter.write_line), "progress")


def _file_of(node_id: str) -> str:
    return node_id.partition("::")[0]
