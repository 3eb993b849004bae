"""What every combinator has to say: a combinator is a layer made of layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.paths import Step
from fbp.typing import Activations, Cache, Layer, Params, Probe, Shape, Sweep


@contextmanager
def naming(step: Step) -> Iterator[None]:
    """Let a mistake that is found in a child say where: each combinator puts its own step in front."""
    try:
        yield
    except FbpError as error:
        error.path = (step, *error.path)
        raise


def named(probe: Probe | None, step: Step) -> Probe | None:
    """The probe for a child, whose visits then say where they are: each combinator puts its own step in front."""
    if probe is None:
        return None
    return lambda visit: probe(replace(visit, path=(step, *visit.path)))


def check_layer(combinator: str, received: object) -> None:
    """Raise an error unless the value is a layer.

    Args:
        combinator: its name, for the message.
        received: what it was given.

    Raises:
        FbpError: the value is not a layer.
    """
    if not isinstance(received, Layer):
        raise FbpError(
            f"arguments of {combinator} must be layers, got {received!r}; write for example {combinator}(Dense(10))"
        )


def check_keeps_shape(part: str, shape: Shape, out_shape: Shape) -> None:
    """Raise an error unless a part of a combinator keeps the shape of its input.

    Args:
        part: what is checked, e.g. "the block of Repeat".
        shape: one example of the input.
        out_shape: one example of the output.

    Raises:
        FbpError: the shapes differ.
    """
    if out_shape != shape:
        raise FbpError(f"{part} must keep the shape of its input, got {shape} -> {out_shape}; end it in that width")


def describe_entries(received: object) -> str:
    """What was given in place of a dictionary of several inputs, or what is in it, for a message."""
    if isinstance(received, dict):
        return f"the entries {', '.join(map(repr, received))}"
    return "one array" if hasattr(received, "shape") else f"one shape, {received}"


@dataclass(frozen=True)
class Combinator(Layer):
    """A layer made of layers.

    A combinator of one's own is a frozen dataclass whose fields are layers (and constants), with `init`, `forward` and
    `sweep`; `backward` follows from `sweep`. Everything that reads a network (traces, norms, gradient flow,
    verification) asks the questions below, and knows no combinator by its type.

    The trees that belong to a combinator (parameters, caches, gradients, readings of a probe) all have the same outer
    structure: by default the child's own tree if there is one child, and a tuple of the children's trees otherwise.
    Override `split` and `join` for another structure.

    Example:
        The sum of two branches, f(A) + g(A):

        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Sum(fbp.Combinator):
        ...     f: fbp.Layer
        ...     g: fbp.Layer
        ...
        ...     def init(self, key, shape):
        ...         key_f, key_g = jax.random.split(key)
        ...         (p_f, out), (p_g, _) = self.f.init(key_f, shape), self.g.init(key_g, shape)
        ...         return (p_f, p_g), out
        ...
        ...     def forward(self, params, A, key=None):
        ...         keys = (None, None) if key is None else jax.random.split(key)
        ...         out_f, cache_f = self.f.forward(params[0], A, keys[0])
        ...         out_g, cache_g = self.g.forward(params[1], A, keys[1])
        ...         return out_f + out_g, (cache_f, cache_g)
        ...
        ...     def sweep(self, params, cache, dA_out, probe=None):
        ...         d_f, dA_f, reading_f = self.f.sweep(params[0], cache[0], dA_out, probe)
        ...         d_g, dA_g, reading_g = self.g.sweep(params[1], cache[1], dA_out, probe)
        ...         return (d_f, d_g), dA_f + dA_g, (reading_f, reading_g)
        >>> net = Sum(fbp.Activation("tanh"), fbp.Dense(3))
        >>> params, _ = net.init(jax.random.key(0), (3,))
        >>> A, cache = net.forward(params, jnp.ones((2, 3)))
        >>> d_params, dA = net.backward(params, cache, jnp.ones_like(A))
    """

    is_chain: ClassVar[bool] = False
    """Whether it applies its children one after the other and does nothing else."""

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers that it is made of, in the order of the fields, which must be that of the forward pass."""
        return tuple(getattr(self, name) for name in self._child_names)

    @property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each child the children whose outputs it takes, by number, -1 is the input: by default the one before."""
        return tuple((i - 1,) for i in range(len(self.children)))

    @property
    def stream(self) -> tuple[int, ...]:
        """The children, by number, that everything passes on its way out: all of a chain, by default none otherwise."""
        return tuple(range(len(self.children))) if self.is_chain else ()

    def with_children(self, children: Sequence[Layer]) -> Layer:
        """The same combinator of other layers."""
        return replace(self, **dict(zip(self._child_names, children, strict=True)))

    @property
    def steps(self) -> tuple[Step | None, ...]:
        """The step of each child in the path of what is below it; None for an only child, which adds no step."""
        return tuple(range(len(self.children))) if len(self.children) > 1 else (None,) * len(self.children)

    @property
    def _child_names(self) -> list[str]:
        return [field.name for field in fields(self) if isinstance(getattr(self, field.name), Layer)]

    def split(self, tree: Any) -> tuple[Any, ...]:
        """Split a tree that belongs to this combinator into one tree per child."""
        return (tree,) if len(self.children) == 1 else tree

    def join(self, trees: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        return trees[0] if len(trees) == 1 else tuple(trees)

    def sweep(self, params: Params, cache: Cache, dA_out: Cotangent, probe: Probe | None = None) -> Sweep:
        """The reverse loop through the children: (d_params, dA_in, readings)."""
        raise NotImplementedError

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The reverse loop without a probe."""
        d_params, dA_in, _ = self.sweep(params, cache, Cotangent(dA_out))
        return d_params, dA_in.value

    def split_cache(self, params: Params, cache: Cache) -> tuple[Cache, ...]:
        """Split the cache of `forward` into the whole cache of each child; override it where arrays are kept once."""
        return self.split(cache)

    @property
    def owner_of_child(self) -> dict[int, int]:
        """For each child the child whose parameters it uses, by number: by default its own."""
        return {i: i for i in range(len(self.children))}

    @property
    def shares_params(self) -> bool:
        """Whether a child uses the parameters of another."""
        return any(child != owner for child, owner in self.owner_of_child.items())

    def add_uses(self, tree: Any) -> Any:
        """A tree of gradients of every use -> that of the parameters, where those of a shared parameter add."""
        return tree

    def own(self, tree: Any) -> Any:
        """A tree of parameters without those of children that use another child's; by default the tree itself."""
        return tree

    @property
    def copies(self) -> int | None:
        """The length of the leading axis of its trees, if it holds that many copies of its child; otherwise None."""
        return None

    @property
    def mixes_examples(self) -> bool:
        """Whether one of its children does."""
        return any(child.mixes_examples for child in self.children)

    @property
    def takes_integers(self) -> bool:
        """Whether the child that reads the input does."""
        return bool(self.children) and self.children[0].takes_integers

    @property
    def homogeneous(self) -> bool:
        """True for a chain of homogeneous layers."""
        return self.is_chain and all(child.homogeneous for child in self.children)

    def detach_last(self) -> "Detached | None":
        """The network as its last layer behind the rest, if it has that form; by default it has not."""
        return None

    def without_checkpoint(self) -> Layer:
        """The same function with every cache kept, so that the caches have the network's structure."""
        return self


class Detached(NamedTuple):
    """A network as its last layer behind the rest.

    Attributes:
        rest: everything before the last layer.
        last: the last layer.
        divide: parameters of the network -> (those of the rest, those of the last layer).
        unite: (d_rest, d_last) -> the gradient of the network's parameters.
    """

    rest: Layer
    last: Layer
    divide: Callable[[Params], tuple[Params, Params]]
    unite: Callable[[Params, Params], Params]
