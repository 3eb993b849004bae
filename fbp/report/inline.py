"""Prose with `code`, **bold** and $mathematics$, for HTML, Markdown, figures and the terminal.

Mathematics is written in Unicode, with `_` and `^` for indices and exponents: $σ_w^2$, $‖dZ_{l-1}‖^2$, $10^{-39}$. A
Greek letter with an index of one character needs no dollars. As in Pandoc, a dollar before a space opens nothing. A
per cent sign stands right behind its number, however it was typed.
"""

import re
from collections.abc import Callable

from markupsafe import Markup, escape

_SPAN = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|\$(?P<math>[^$`\s](?:[^$`]*[^$`\s])?)\$(?!\d)"
    r"|(?P<index>[Α-ω]_\w)"
    r"|\*\*(?P<bold>(?:`[^`]*`|[^`])+?)\*\*"
)
_SCRIPT = re.compile(r"([_^])(?:\{([^{}]*)\}|(.))")
_PERCENT = re.compile(r"(?<=\d)[ \N{NO-BREAK SPACE}]%")
_LETTERS = re.compile(r"[^\W\d_]+")
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~$&]")
_LIST_START = re.compile(r"^(\d+|)([.)+=-])(?=\s|$|[=-])")
_SUPERSCRIPT = str.maketrans("0123456789+-−nT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿᵀ")
_SUBSCRIPT = str.maketrans("0123456789+-−", "₀₁₂₃₄₅₆₇₈₉₊₋₋")
_Mark = Callable[[str], str]
# A formula up to this length stays on one line.
_UNBROKEN = 24


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
            math=_html_math,
        )
    )


def markdown(text: str) -> str:
    """A line of prose as Markdown in which nothing but code and bold has a meaning."""
    line = _render(
        " ".join(text.split()),
        words=_escape_markdown,
        code=lambda s: f"`{s}`",
        bold=lambda s: f"**{s}**",
        math=lambda s: _escape_markdown(_unicode_math(s)),
    )
    return _LIST_START.sub(r"\1\\\2", line)


def markdown_cell(text: str) -> str:
    """The same for a cell of a table, which a bar would end even within code."""
    return re.sub(r"(?<!\\)\|", r"\|", markdown(text))


def plain(text: str) -> str:
    """A line of prose without its marks, mathematics in Unicode: for the terminal and for alternative texts.

    Example:
        >>> fbp.report.plain("**Stable** where $σ_w^2 = 2$, within $10^{-3}$")
        'Stable where σ_w² = 2, within 10⁻³'
    """
    return _render(text, words=str, code=str, bold=str, math=_unicode_math)


def mathtext(text: str) -> str:
    """A label for matplotlib: the same prose, with mathematics as its mathtext and every other dollar as it stands."""
    literal = lambda s: s.replace("$", r"\$")
    return _render(text, words=literal, code=literal, bold=str, math=_matplotlib_math)


def superscript(exponent: int) -> str:
    """An integer as an exponent in Unicode."""
    return str(exponent).translate(_SUPERSCRIPT)


def _render(text: str, words: _Mark, code: _Mark, bold: _Mark, math: _Mark) -> str:
    parts, end = [], 0
    prose = lambda part: words(_PERCENT.sub("%", part))
    for span in _SPAN.finditer(text):
        parts.append(prose(text[end : span.start()]))
        if span["code"] is not None:
            parts.append(code(span["code"]))
        elif span["bold"] is not None:
            parts.append(bold(_render(span["bold"], words, code, bold, math)))
        else:
            parts.append(math(span["math"] or span["index"]))
        end = span.end()
    return "".join([*parts, prose(text[end:])])


def _is_symbol(letters: str) -> bool:
    """Whether letters are a variable (n, σ) or a gradient (dZ), set in italics, rather than a word (ln, Var)."""
    return len(letters) == 1 or (len(letters) == 2 and letters[0] == "d")


def _html_math(formula: str) -> str:
    def letters(text: str) -> str:
        return _LETTERS.sub(lambda m: f"<i>{m[0]}</i>" if _is_symbol(m[0]) else m[0], str(escape(text)))

    def base(text: str) -> str:
        # An entity such as &lt; is no word.
        return "".join(part if part.startswith("&") else letters(part) for part in re.split(r"(&\w+;)", text))

    formula = formula.replace("-", "\N{MINUS SIGN}")
    if len(formula) <= _UNBROKEN:
        formula = formula.replace(" ", "\N{NO-BREAK SPACE}")
    parts, end = [], 0
    for script in _SCRIPT.finditer(formula):
        tag = "sub" if script[1] == "_" else "sup"
        parts += [base(formula[end : script.start()]), f"<{tag}>{base(script[2] or script[3])}</{tag}>"]
        end = script.end()
    return "".join([*parts, base(formula[end:])])


def _unicode_math(formula: str) -> str:
    def script(match: re.Match[str]) -> str:
        text = match[2] or match[3]
        raised = text.translate(_SUBSCRIPT if match[1] == "_" else _SUPERSCRIPT)
        if text == "*" or not set(raised) & set(text):
            return raised
        return match[1] + (text if len(text) == 1 else f"({text})")

    return _SCRIPT.sub(script, formula).replace("-", "\N{MINUS SIGN}")


def _matplotlib_math(formula: str) -> str:
    upright = _LETTERS.sub(lambda m: m[0] if _is_symbol(m[0]) else rf"\mathrm{{{m[0]}}}", formula)
    # mathtext drops spaces; it sets its own around operators, none between factors.
    spaced = re.sub(r"(?<=[\w)}‖]) (?=[\w(\\‖√])", r"\\ ", upright)
    return f"${spaced}$"


def _escape_markdown(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", re.sub(r"\s+", " ", text))
