"""A report as the text of a page: numbers the blocks and fills the templates."""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fbp.report import format, inline
from fbp.report.document import Block, Figure, Listing, Report, Table, Text
from fbp.report.style import Picture

_CONTENTS_FROM = 4
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_TEMPLATES = Environment(
    loader=PackageLoader("fbp.report"),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "paragraphs": inline.paragraphs,
    "html": inline.html,
    "md": inline.markdown,
    "cell": inline.markdown_cell,
    "plain": inline.plain,
}


def render_pages(
    report: Report, rows: int, pictures: Mapping[str, Picture], made_with: Mapping[str, str]
) -> tuple[str, str]:
    """The report as HTML, complete in itself, and as Markdown that shows the files of `figures/`.

    Args:
        report: what to write.
        rows: the number of rows in data.csv.
        pictures: the rendered figures, by name.
        made_with: the versions and the device, by label.

    Returns:
        The text of report.html and of report.md.
    """
    numbers = {Table: count(1), Figure: count(1)}
    context = {
        "report": report,
        "rows": f"{rows:,} row" + ("s" if rows != 1 else ""),
        "sections": [
            {"title": section.title, "blocks": [_block(block, numbers, pictures) for block in section.blocks]}
            for section in report.sections
        ],
        "setting": [(label, format.describe(value)) for label, value in report.setting],
        "contents": len(report.sections) >= _CONTENTS_FROM,
        "made_with": made_with,
        "made_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    html, markdown = (_TEMPLATES.get_template(name).render(context) for name in ("report.html.j2", "report.md.j2"))
    return html, markdown


def _block(block: Block, numbers: Mapping[type, Any], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"kind": "text", "paragraphs": inline.paragraphs(block.text)}
    if isinstance(block, Listing):
        text = block.text.translate(_CONTROLS)
        # A fence of Markdown ends at the first line of as many backticks.
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return {"kind": "listing", "caption": block.caption, "text": text, "fence": fence}
    shared = {"number": next(numbers[type(block)]), "caption": block.caption}
    if isinstance(block, Table):
        columns = format.columns(block)
        rows = [[(column, column.cells[i]) for column in columns] for i in range(len(block.rows))]
        return {"kind": "table", "columns": columns, "rows": rows, **shared}
    picture = pictures[block.name]
    wide, narrow = (
        {"source": "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii"), "size": size}
        for svg, *size in (picture.wide, picture.narrow)
    )
    return {"kind": "figure", "name": block.name, "wide": wide, "narrow": narrow, **shared}
