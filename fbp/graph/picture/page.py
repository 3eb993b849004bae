"""A picture as one HTML page that works offline."""

import json
from collections.abc import Set
from html import escape

from fbp.graph.picture.arrange import GAP, MARGIN, TITLE
from fbp.graph.picture.heights import APART, SWEEPS
from fbp.graph.picture.page_data import describe_plan
from fbp.graph.picture.plan import Plan
from fbp.graph.picture.svg import read_template


def render_page(plan: Plan, opened: Set[int], name: str) -> str:
    """The page.

    Args:
        plan: the picture.
        opened: the boxes that are open at first.
        name: of the function.
    """
    result = next((box.name for box in plan.level.boxes if box.kind == "output"), name)
    data = {
        "name": name,
        "opened": sorted(opened),
        "gap": GAP,
        "margin": MARGIN,
        "title": TITLE,
        "sweeps": SWEEPS,
        "apart": APART,
        "root": describe_plan(plan, result),
    }
    # A script ends at the first "</", wherever that stands.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    page = read_template("page.html")
    parts = {
        "NAME": escape(name),
        "STYLE": "".join(read_template(f"{name}.css") for name in ("colors", "picture", "page")),
        "SCRIPT": read_template("layout.js") + read_template("page.js"),
        "DATA": text,
    }
    for key, part in parts.items():
        page = page.replace(f"{{{{ {key} }}}}", part)
    return page
