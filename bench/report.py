"""What programs that measure share: the option `--out`, and the JSON that they leave there."""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec

from node.bench.measure import machine_facts


def report_parser(program: str, doc: str, *, required: bool = True) -> argparse.ArgumentParser:
    """A parser with `--out FILE`.

    Args:
        program: the module's name below `bench`.
        doc: its docstring; the help shows it as it is.
        required: whether what was found is lost without the file.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{program}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=required,
        metavar="FILE",
        help="JSON of what was found, and of this machine",
    )
    return parser


def write_report(file: Path | None, found: Any) -> dict[str, Any]:
    """Write what was found, and where: `machine_facts` stand in it unless it has its own.

    Args:
        file: replaced if it exists; None writes nothing.
        found: a struct or a dictionary.

    Returns:
        What was written, or would have been, in plain types.
    """
    plain = msgspec.to_builtins(found)
    report = plain if "machine" in plain else {"machine": machine_facts(), **plain}
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")
    return report
