"""Prose with `code` and **bold**, rendered to HTML, to Markdown, and to bare words."""

import re
from collections.abc import Callable

from markupsafe import Markup, escape

_SPAN = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>(?:`[^`]*`|[^`])+?)\*\*")
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~$&]")
_LIST_START = re.compile(r"^(\d+|)([.)+=-])(?=\s|$|[=-])")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def html(text: str) -> Markup:
    """A line of prose as HTML, escaped."""
    return Markup(
        _render(
            text,
            words=lambda s: str(escape(s)),
            code=lambda s: f"<code>{escape(s)}</code>",
            bold=lambda s: f"<strong>{s}</strong>",
        )
    )


def markdown(text: str) -> str:
    """A line of prose as Markdown in which nothing but code and bold has a meaning."""
    line = _render(
        " ".join(text.split()),
        words=markdown_words,
        code=lambda s: f"`{s}`",
        bold=lambda s: f"**{s}**",
    )
    return _LIST_START.sub(r"\1\\\2", line)


def markdown_words(text: str) -> str:
    """Words for Markdown, every character standing for itself; safe in a cell of a table."""
    return _SPECIAL.sub(r"\\\g<0>", re.sub(r"\s+", " ", text))


def bare(text: str) -> str:
    """A line of prose without its marks, for an alternative text."""
    return _render(text, words=str, code=str, bold=str)


def _render(text: str, words: Callable[[str], str], code: Callable[[str], str], bold: Callable[[str], str]) -> str:
    parts, end = [], 0
    for span in _SPAN.finditer(text):
        parts.append(words(text[end : span.start()]))
        if span["code"] is not None:
            parts.append(code(span["code"]))
        else:
            parts.append(bold(_render(span["bold"], words, code, bold)))
        end = span.end()
    return "".join([*parts, words(text[end:])])
