"""What a check of the node has found, and how that is told: one line each, or JSON."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec


class Grade(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well or as long as it could."""
    PROBLEM = "problem"
    """The node does not do its work like this."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check has found."""

    check: str
    grade: Grade
    found: str
    advice: str | None = None
    """What to do about it; None while all is well."""


def ok(check: str, found: str) -> Finding:
    """A finding that all is well."""
    return Finding(check=check, grade=Grade.OK, found=found)


def warning(check: str, found: str, advice: str) -> Finding:
    """A finding that somebody should look into."""
    return Finding(check=check, grade=Grade.WARNING, found=found, advice=advice)


def problem(check: str, found: str, advice: str | None = None) -> Finding:
    """A finding about which somebody has to do something.

    Args:
        check: name of the check.
        found: what is wrong.
        advice: what to do; None where the words of `found` (an error's own) say it already.
    """
    return Finding(check=check, grade=Grade.PROBLEM, found=found, advice=advice)


def line(finding: Finding) -> str:
    """The finding for people."""
    told = finding.found if finding.advice is None else f"{finding.found} -> {finding.advice}"
    # Errors quote names and what other programs say; none of it may start a line of its own.
    told = " ".join("".join(c if c.isprintable() else " " for c in told).split())
    return f"{finding.grade:<8} {finding.check:<17} {told}"


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings for programs."""
    return {
        "schema": 1,
        "problems": count(findings, Grade.PROBLEM),
        "warnings": count(findings, Grade.WARNING),
        "checks": [msgspec.to_builtins(finding) for finding in findings],
    }


def count(findings: Sequence[Finding], grade: Grade) -> int:
    """How many are of that grade."""
    return sum(finding.grade is grade for finding in findings)
