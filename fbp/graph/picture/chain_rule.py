"""The chain rule at one node, written out with the names and the numbers that are there."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fbp.graph.picture.boxes import Wire
from fbp.graph.picture.numbers import plain, short

_WORDS = (
    "sinh",
    "cosh",
    "tanh",
    "arcsin",
    "arccos",
    "arctan",
    "sin",
    "cos",
    "tan",
    "log",
    "exp",
    "erf",
    "sign",
    "trunc",
)
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<variable>dy(?![a-z])|[xzy](?![a-z]))"
    rf"|(?P<word>(?:{'|'.join(_WORDS)})(?![a-z])|[σΣΠψΓ√])|(?P<number>\d+|π|e(?=ˣ))|(?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵀ]+|[ˣᶻ⁻¹]+)|(?P<open>[(\[])|(?P<close>[)\]])|(?P<sign>[-+/,<>≤≥|])"
)
_LETTER = re.compile(r"\b(?:dy|[xyz])\b")
_NAME = re.compile(r"[\w.′]+(?:[\[(][^ ]*[\])])?")
_RAISED = str.maketrans("ˣᶻ⁻¹", "xz-1")


class Token(NamedTuple):
    """A piece of a formula: its kind and its text."""

    kind: str
    text: str


def write_out(node: Any, reads: Sequence[Wire], made: Wire, result: str) -> tuple[str, list[str]]:
    """What a node without a graph inside computes, and for each input with a gradient the chain rule.

    Args:
        node: a `fbp.graph.Node` with one output.
        reads: its inputs.
        made: its output.
        result: the name of the result of the whole function.
    """
    forward, backward = parse(node.formula)
    letters = "xz"[: len(reads)] if len(reads) <= 2 else ""
    y, dy = made.value.value, made.gradient
    symbols = {"y": made.name, "dy": derivative(result, made.name)}
    symbols |= {letter: wire.name for letter, wire in zip(letters, reads, strict=False)}
    digits = None
    arrays = {"y": y, "dy": dy} | {letter: w.value.value for letter, w in zip(letters, reads, strict=False)}
    if all(x is None or (np.ndim(x) == 0 and x.dtype.kind in "iuf") for x in arrays.values()):
        digits = {letter: short(x) for letter, x in arrays.items() if x is not None}
    sides = _expressions(forward, symbols, digits)
    if not _NAME.fullmatch(made.name):
        # What is called by its expression is not written a second time.
        sides = sides[1:]
    computed = _join(made.name, [*sides, _amount(y)]) if y is not None else ""
    lines = []
    for k, wire in enumerate(reads):
        if wire.gradient is None:
            continue
        written = _expressions(backward.get(f"d{letters[k]}", "") if letters else "", symbols, digits)
        if not written and digits and dy is not None and float(dy):
            local = short(np.asarray(wire.gradient / dy))
            written = [f"{symbols['dy']} · {derivative(made.name, wire.name)}", f"{digits['dy']} × {local}"]
        lines.append(carry(result, wire, written))
    return computed, lines


def carry(result: str, wire: Wire, written: Sequence[str] = ()) -> str:
    """What flows back along one edge: the gradient of the value, or with += a part of it.

    Args:
        result: the name of the result of the whole function.
        wire: the edge.
        written: other ways to write it.
    """
    whole = None if wire.value.gradient is None else plain(wire.value.gradient)
    is_all = whole is None or np.array_equal(whole, plain(wire.gradient), equal_nan=whole.dtype.kind in "fc")
    return _join(derivative(result, wire.name), [*written, _amount(wire.gradient)], "=" if is_all else "+=")


def parse(formula: str) -> tuple[str, dict[str, str]]:
    """The right side of y = ..., and those of dx = ..., dz = ... by their left sides."""
    head, _, tail = formula.rpartition(":  ")
    forward = head.removeprefix("y = ") if head.startswith("y = ") else ""
    clauses = {}
    for clause in tail.split(",  "):
        left, _, right = clause.partition(" = ")
        # "xᵀ dy, batch axes kept": what follows is said in words.
        clauses[left] = right if right.startswith("[d") else right.partition(", ")[0]
    return forward, clauses


def derivative(of: str, by: str) -> str:
    """d pay/d total."""
    return f"d {_bracket(of)}/d {_bracket(by)}"


def _bracket(name: str) -> str:
    return name if _NAME.fullmatch(name) else f"({name})"


def _expressions(clause: str, symbols: Mapping[str, str], digits: Mapping[str, str] | None) -> list[str]:
    """A formula with names, and with numbers where all are numbers and nothing is put in words."""
    tokens = tokenize(clause)
    if tokens is None:
        return [_LETTER.sub(lambda found: symbols.get(found.group(), found.group()), clause)]
    symbolic, numeric = render(tokens, symbols, " · "), render(tokens, digits or {}, " × ")
    return [side for side in (symbolic, numeric) if side]


def _join(left: str, sides: Sequence[str], sign: str = "=") -> str:
    """a = b = c, without what stands twice."""
    return f"{left} {sign} " + " = ".join(dict.fromkeys(side for side in sides if side))


def _amount(x: Any) -> str:
    return "" if x is None else short(x)


def tokenize(clause: str) -> list[Token] | None:
    """The pieces of a formula; None where it is put in words."""
    tokens, k = [], 0
    while k < len(clause):
        match = _TOKEN.match(clause, k)
        if match is None:
            return None
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(Token(kind, match.group()))
        k = match.end()
    return tokens


def render(tokens: Sequence[Token], known: Mapping[str, str], times: str) -> str | None:
    """A formula with other names or numbers in place of its letters; None where a letter has none.

    Args:
        tokens: of the formula.
        known: what each letter stands for.
        times: the sign of a product, which the formula does not write.
    """
    text, before = "", ""
    for k, (kind, piece) in enumerate(tokens):
        operand = kind in ("variable", "number", "word", "open")
        if operand and before in ("variable", "number", "power", "close"):
            text += times
        elif before == "word" and kind != "open" and text[-1:].isalpha():
            text += " "
        if kind == "variable":
            if piece not in known:
                return None
            is_alone = len(tokens) == 1 or (
                before == "open" and [token.kind for token in tokens[k + 1 : k + 2]] == ["close"]
            )
            text += known[piece] if is_alone or piece == "dy" else _bracket(known[piece])
        elif kind == "power" and set(piece) & set("ˣᶻ"):
            inner = piece.translate(_RAISED)
            raised = "".join(known.get(c, c) for c in inner).replace("-", "−")
            text += f"^{raised}" if len(inner) == 1 and not raised.startswith("−") else f"^({raised})"
        elif kind == "sign":
            unary = piece == "-" and (k == 0 or before in ("open", "sign"))
            shown = piece.replace("-", "−")
            text += shown if unary else f"{shown} " if piece == "," else f" {shown} "
        else:
            text += piece
        before = kind
    return text
