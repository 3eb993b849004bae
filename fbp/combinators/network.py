"""A straight-line program with named lines: branches, skip connections, several inputs and outputs, shared lines."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp

from fbp.combinators.base import Combinator, Detached, check_layer, describe_entries, naming
from fbp.combinators.lines import Call, add_cotangent, read, restorer, run_lines, sweep_lines
from fbp.cotangent import Cotangent, share_exponent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Line, Params, Probe, Shape, Sweep

INPUT = "input"
"""The name of the input where it is one array."""


@dataclass(frozen=True)
class Network(Combinator):
    """Named layers in order; each reads the line before, or the lines that it names.

        Network(norm=LayerNorm(), q=Dense(n).of("norm"), k=Dense(n).of("norm"), ..., end=Add().of("input", "o"))

    Where several lines read one value, their cotangents add. A line may use the parameters of another
    (`Unembedding(V).sharing("tokens")`), which then get the sum of the gradients of both uses.

    The trees that belong to it (parameters, caches, gradients, readings) are dictionaries by the names of the lines; a
    line that shares parameters has none of its own. A line's random numbers depend on its name, not on its place.

    Args:
        inputs: the names of the inputs, for a dictionary of several; without them the input is one array, "input".
        output: the line whose output goes out, the last one by default; or a dictionary of names and lines.
        shape: the shape of one example of the input, so that `init` needs none.
        named_lines: the lines, in order. Their names may not be "input", "output" or "shape".

    Raises:
        FbpError: a line is no layer, or reads, shares or gives out what does not exist before it.

    Example:
        >>> net = fbp.Network(
        ...     norm=fbp.RMSNorm(),
        ...     gate=fbp.Dense(8).of("norm"),
        ...     value=fbp.Dense(8).of("norm"),
        ...     product=fbp.Multiply().of("gate", "value"),
        ...     down=fbp.Dense(4),
        ...     end=fbp.Add().of("input", "down"),
        ... )
        >>> params, shape = net.init(jax.random.key(0), (4,))
        >>> sorted(params), shape
        (['down', 'end', 'gate', 'norm', 'product', 'value'], (4,))
        >>> A, cache = net.forward(params, jnp.ones((2, 4)))
        >>> d_params, dA = net.backward(params, cache, jnp.ones_like(A))
        >>> d_params["gate"]["W"].shape
        (4, 8)
    """

    lines: tuple[tuple[str, Line], ...]
    inputs: tuple[str, ...]
    output: str | tuple[tuple[str, str], ...]
    shape: Any

    def __init__(
        self,
        *inputs: str,
        output: str | Mapping[str, str] | None = None,
        shape: Shape | None = None,
        **named_lines: Layer | Line,
    ):
        if len(set(inputs)) < len(inputs):
            raise FbpError(f"the inputs of a Network must have different names, got {', '.join(inputs)}; rename one")
        reserved = (INPUT, "output", "shape", *inputs)
        given = {"output": output, "shape": shape} | named_lines
        for name in reserved:
            if isinstance(given.get(name), (Layer, Line)):
                raise FbpError(
                    f"the name of a line must not be {' or '.join(map(repr, reserved))}, got {name!r}; rename it"
                )
        if not named_lines:
            raise FbpError(
                "a Network must have at least one line, got none; write for example Network(hidden=Dense(8))"
            )
        known = list(inputs) or [INPUT]
        checked: list[tuple[str, Any]] = []
        for name, line in named_lines.items():
            line = line if isinstance(line, Line) else Line(line)
            check_layer("Network", line.layer)
            if not line.reads:
                line = line.of(known[-1]) if checked or len(known) == 1 else line
            _check_names(f"the line {name!r}", "reads", line.reads, known, named_lines)
            if line.owner is not None:
                owners = [own for own, each in checked if each.owner is None]
                _check_names(f"the line {name!r}", "shares the parameters of", (line.owner,), owners, named_lines)
            checked.append((name, line))
            known.append(name)
        output = known[-1] if output is None else output
        outputs = tuple(output.items()) if isinstance(output, Mapping) else output
        for source in output.values() if isinstance(output, Mapping) else (output,):
            _check_names("the output", "reads", (source,), known, named_lines)
        # Everything hashable, so that a network may be static where it is compiled.
        shape = tuple(shape.items()) if isinstance(shape, dict) else shape
        for field, value in (("lines", tuple(checked)), ("inputs", inputs), ("output", outputs), ("shape", shape)):
            object.__setattr__(self, field, value)
        used = {source for _, line in checked for source in line.reads} | set(self._outputs.values())
        for name in known:
            if name not in used:
                raise FbpError(
                    f"every line of a Network must be read by another or be its output, got {name!r}, which nobody "
                    "reads; remove it, or name it in `output`"
                )

    @property
    def _initial_shape(self) -> Shape | None:
        return dict(self.shape) if self.inputs and self.shape else self.shape

    @property
    def _outputs(self) -> dict[str, str]:
        return {"": self.output} if isinstance(self.output, str) else dict(self.output)

    @cached_property
    def _lines(self) -> list[Call]:
        return [Call(name, line.layer, _reads(line)) for name, line in self.lines]

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers of the lines."""
        return tuple(line.layer for _, line in self.lines)

    def with_children(self, children: Sequence[Layer]) -> "Network":
        """The same lines with other layers."""
        named_lines = {
            name: Line(child, line.reads, line.entries, line.owner)
            for (name, line), child in zip(self.lines, children, strict=True)
        }
        output = self.output if isinstance(self.output, str) else dict(self.output)
        return Network(*self.inputs, output=output, shape=self.shape, **named_lines)

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the lines."""
        return tuple(name for name, _ in self.lines)

    @property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the lines that each line reads, -1 for an input."""
        number = {name: i for i, name in enumerate(self.steps)}
        return tuple(tuple(number.get(source, -1) for source in line.reads) for _, line in self.lines)

    @property
    def stream(self) -> tuple[int, ...]:
        """The lines without which the output is cut off from the input, such as the sums of a residual stream."""
        if self.output not in self.steps:
            return ()
        last = self.steps.index(self.output)
        return tuple(i for i in range(last + 1) if not self._is_reached(last, without=i))

    def _is_reached(self, last: int, without: int) -> bool:
        reached = {-1}
        for i, reads in enumerate(self.sources):
            if i != without and not reached.isdisjoint(reads):
                reached.add(i)
        return last in reached

    @property
    def owners(self) -> dict[str, str]:
        """The lines that use the parameters of another line, and whose."""
        return {name: line.owner for name, line in self.lines if line.owner is not None}

    @property
    def owner_of_child(self) -> dict[int, int]:
        """By number: of a line that shares, the line that owns."""
        return {i: self.steps.index(self.owners.get(name, name)) for i, name in enumerate(self.steps)}

    def split(self, tree: Any) -> tuple[Any, ...]:
        """By line; where a line has none of its own parameters, those that it uses."""
        return tuple(tree[name] if name in tree else tree[self.owners[name]] for name in self.steps)

    def join(self, trees: Sequence[Any]) -> Any:
        """A dictionary."""
        return dict(zip(self.steps, trees, strict=True))

    def own(self, tree: Any) -> Any:
        """Without the lines that use the parameters of another."""
        return {name: part for name, part in tree.items() if name not in self.owners}

    def init(self, key: Key, shape: Shape | None = None) -> tuple[Params, Shape]:
        """The parameters of each line that has its own; `shape` may be omitted if the network knows it.

        Args:
            key: the source of randomness.
            shape: of one example; a dictionary of shapes for several inputs.
        """
        shape = self._initial_shape if shape is None else shape
        if shape is None:
            raise FbpError("the shape of one example must be known, got None; give it, init(key, (784,))")
        values, params = self._named(shape), {}
        for name, line in self.lines:
            with naming(name):
                A_shape = read(values, _reads(line))
                params[name], values[name] = line.layer.init(_key_of(key, name), A_shape)
                if line.owner is not None:
                    _check_shared(name, line.owner, params[name], params[line.owner])
        return self.own(params), self._given(values)

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """Run the lines; a value that several lines read is cached once."""
        values = self._named(A)
        keys = {name: None if key is None else _key_of(key, name) for name in self.steps}
        caches = run_lines(self._lines, self._used(params), values, keys)
        return self._given(values), caches

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop over the lines; the gradients of parameters that several lines use add."""
        cotangents: dict[Any, Cotangent] = {}
        for entry, source in self._outputs.items():
            part = dA_out.value if isinstance(self.output, str) else dA_out.value[entry]
            add_cotangent(cotangents, source, Cotangent(part, dA_out.exponent))
        uses, readings = sweep_lines(self._lines, self._used(params), cache, cotangents, probe)
        dA_in = cotangents[INPUT] if not self.inputs else _join({name: cotangents[name] for name in self.inputs})
        return self.add_uses(uses), dA_in, {name: readings[name] for name in self.steps}

    def add_uses(self, tree: Any) -> Any:
        """The gradient of a line's parameters is the sum over the lines that use them."""
        added = self.own(tree)
        for name, owner in self.owners.items():
            added[owner] = jax.tree.map(jnp.add, added[owner], tree[name])
        return added

    def split_cache(self, params: Params, cache: Cache) -> tuple[Cache, ...]:
        """Each line's cache, with the arrays that the lines before give back."""
        restore = restorer(self._lines, self._used(params), cache)
        return tuple(restore(name, None) for name in self.steps)

    @property
    def takes_integers(self) -> bool:
        """Whether a line that reads the input does."""
        return any(
            line.layer.takes_integers for _, line in self.lines if not {INPUT, *self.inputs}.isdisjoint(line.reads)
        )

    def detach_last(self) -> Detached | None:
        """The last line behind the rest, if it is the output and reads one line."""
        (*before, (name, line)), owner = self.lines, self.lines[-1][1].owner
        if not before or self.output != name or len(line.reads) != 1 or line.entries:
            return None
        rest = Network(*self.inputs, output=line.reads[0], shape=self._initial_shape, **dict(before))

        def divide(params: Params) -> tuple[Params, Params]:
            return {key: own for key, own in params.items() if key != name}, params[owner or name]

        def unite(d_rest: Params, d_last: Params) -> Params:
            if owner is None:
                return d_rest | {name: d_last}
            return d_rest | {owner: jax.tree.map(jnp.add, d_rest[owner], d_last)}

        return Detached(rest, line.layer, divide, unite)

    @property
    def recomputes(self) -> bool:
        """True if the line that goes out recomputes its output."""
        return self._last is not None and self._last.recomputes

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """The output, from the cache of the line that goes out."""
        assert self._last is not None
        assert isinstance(self.output, str)
        params = self._used(params)
        return self._last.recompute(params[self.output], restorer(self._lines, params, cache)(self.output, None))

    @property
    def acts_on_rows(self) -> bool:
        """True if each of its layers does."""
        return all(layer.acts_on_rows for layer in self.children)

    @property
    def _last(self) -> Layer | None:
        return next((line.layer for name, line in self.lines if name == self.output), None)

    def _used(self, params: Params) -> dict[str, Params]:
        return self.join(self.split(params))

    def _named(self, A: Any) -> dict[str, Any]:
        if not self.inputs:
            return {INPUT: A}
        if not isinstance(A, dict) or set(A) != set(self.inputs):
            raise FbpError(
                f"the input of this Network must be a dictionary of {', '.join(map(repr, self.inputs))}, got "
                f"{describe_entries(A)}; give each by its name, in a line as .of(x='norm', mask='mask')"
            )
        return dict(A)

    def _given(self, values: dict[str, Any]) -> Any:
        if isinstance(self.output, str):
            return values[self.output]
        return {entry: values[source] for entry, source in self.output}


def _reads(line: Line) -> Any:
    if line.entries:
        return dict(zip(line.entries, line.reads, strict=True))
    return line.reads[0] if len(line.reads) == 1 else line.reads


def _key_of(key: Key, name: str) -> Key:
    return jax.random.fold_in(key, crc32(name.encode()))


def _join(cotangents: dict[str, Cotangent]) -> Cotangent:
    """The cotangent of a dictionary."""
    shared = share_exponent(list(cotangents.values()))
    return Cotangent({name: each.value for name, each in zip(cotangents, shared, strict=True)}, shared[0].exponent)


def _check_names(subject: str, verb: str, names: Sequence[str], known: Sequence[str], later: Mapping[str, Any]) -> None:
    if not names:
        raise FbpError(
            f"{subject} must say what it reads, because several inputs stand before it: got no `.of`; "
            f"write for example .of({known[0]!r})"
        )
    for name in names:
        if name in later and name not in known:
            raise FbpError(f"{subject} must come after what it {verb}, got {name!r}; put the line {name!r} before it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"before it there are {', '.join(map(repr, known))}"
            raise FbpError(f"{subject} must name a line before it, got {name!r}, which it {verb}; {remedy}")


def _check_shared(name: str, owner: str, needed: Params, owned: Params) -> None:
    needed, owned = (jax.tree.map(jnp.shape, tree) for tree in (needed, owned))
    if needed != owned:
        raise FbpError(
            f"the parameters of {owner!r}, which this line shares, must have the shapes {needed}, got {owned}; "
            "share those of a line of the same sizes"
        )
