"""What `make test` shows: each file when all its tests have run, and at the end what was not run.

A plugin for pytest (`-p tests.rig.progress`), with workers of pytest-xdist and without. Failures
are named at once; their texts come at the end, as always.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest


class Progress:
    """Counts tests by file; lives in the process that writes to the terminal."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._started = time.monotonic()
        self._left: Counter[str] = Counter()
        """Tests that have still to run, by file."""
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._total = 0

    def expect(self, ids: Sequence[str]) -> None:
        """These tests will run; more than one worker may say so."""
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
        """No letters for tests that went as they should; the rest is told by its name."""
        if isinstance(report, pytest.TestReport) and (report.passed or report.skipped):
            counted = report.when == "call" or report.skipped
            return (report.outcome if counted else "", "", "")
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            name = report.nodeid.rpartition("@")[0] or report.nodeid
            self._reporter.write_line(f" {self._percent()} FAILED {name} ({report.when})", red=True)
        file = _file_of(report.nodeid)
        if report.failed or report.skipped or report.when == "call":
            self._outcomes[file][report.outcome] += 1
        if report.when == "teardown":
            self._left[file] -= 1
            if not self._left[file]:
                del self._left[file]
                self._tell(file)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        skipped: Counter[str] = Counter()
        for report in terminalreporter.getreports("skipped"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "no reason given"
            skipped[reason.removeprefix("Skipped: ")] += 1
        if not skipped:
            terminalreporter.write_line("Nothing was skipped.")
            return
        terminalreporter.section("what this machine did not run, and why")
        for reason, count in skipped.most_common():
            terminalreporter.write_line(f"{count:4} test{'s' if count > 1 else ' '}  {reason}")

    def _tell(self, file: str) -> None:
        counts = self._outcomes.pop(file)
        words = ", ".join(
            f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped") if counts[kind]
        )
        color = {"red" if counts["failed"] else "green": True}
        self._reporter.write_line(f" {self._percent()} {file}  {words}", **color)

    def _percent(self) -> str:
        done = self._total - self._left.total()
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        return f"{100 * done // max(self._total, 1):3}% {minutes:2}:{seconds:02}"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Nothing in a worker of pytest-xdist: what it finds is told by the process that started it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(reporter), "progress")


def _file_of(node_id: str) -> str:
    return node_id.partition("::")[0]
