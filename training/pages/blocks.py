"""What a page is made of: sections of paragraphs, tables, facts and drawings.

How each of them looks is `templates/`'s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jinja2
import msgspec
from markupsafe import Markup

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_NUMERIC = "0123456789+-"
"""First letters of numbers, and what stands for a number that is not known."""


class Table(msgspec.Struct, frozen=True):
    """Rows with the same keys, which are the heads; at least one row."""

    caption: str
    rows: Sequence[Mapping[str, str]]
    own_first: bool = False
    """Whether the first row is our own, and bold."""
    kind: Literal["table"] = "table"

    @property
    def columns(self) -> dict[str, str]:
        """Heads, each with `number` where all below are numbers, else with `words`."""
        return {
            head: "number"
            if index and all(row[head][:1] in _NUMERIC for row in self.rows)
            else "words"
            for index, head in enumerate(self.rows[0])
        }


class Facts(msgspec.Struct, frozen=True):
    """Names, and what is to be said of each."""

    texts: Mapping[str, str]
    kind: Literal["facts"] = "facts"


class Subheading(msgspec.Struct, frozen=True):
    """A title within a section."""

    text: str
    kind: Literal["subheading"] = "subheading"


class Code(msgspec.Struct, frozen=True):
    """A command that can be typed."""

    text: str
    kind: Literal["code"] = "code"


class Drawing(msgspec.Struct, frozen=True):
    """A picture of numbers, and what is said below it."""

    svg: Markup
    caption: str = ""


class Drawings(msgspec.Struct, frozen=True):
    """Drawings beside one another, as many as there is room for."""

    drawings: Sequence[Drawing]
    kind: Literal["drawings"] = "drawings"


Block = str | Table | Facts | Subheading | Code | Drawings
"""A string is a paragraph."""


class Section(msgspec.Struct, frozen=True):
    """A title with blocks below it."""

    title: str
    blocks: Sequence[Block]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What stands above all sections."""

    title: str
    subtitle: str
    lead: str
    remarks: Sequence[str]
    warnings: Sequence[str]


def section(title: str, *blocks: Block) -> Section:
    """A section without the blocks that are empty."""
    return Section(title, [block for block in blocks if block and not _is_bare(block)])


def page_html(page_title: str, header: Header, sections: Sequence[Section]) -> str:
    """One file of HTML, CSS and SVG that needs no network and no script."""
    template = _TEMPLATES.get_template("page.html")
    return template.render(page_title=page_title, header=header, sections=sections) + "\n"


def _is_bare(block: Block) -> bool:
    return (isinstance(block, Drawings) and not block.drawings) or (
        isinstance(block, Facts) and not block.texts
    )
