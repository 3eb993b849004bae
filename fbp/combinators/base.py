"""What all combinators are: a layer made of layers."""

from collections.abc import Sequence
from typing import Any

from fbp.cotangent import Cotangent
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Layer, Params


def check_layer(where: str, received: object) -> None:
    """Refuse what is not a layer.

    Raises:
        FbpError: naming the combinator and what it was given.
    """
    if not isinstance(received, Layer):
        raise FbpError(f"{where} takes layers, e.g. {where}(Dense(10)); received {received!r}")


class Combinator(Layer):
    """A layer made of layers."""

    @property
    def children(self) -> tuple[Layer, ...]:
        """The layers it is made of, in forward order."""
        raise NotImplementedError

    def with_children(self, children: Sequence[Layer]) -> Layer:
        """The same combinator of other layers."""
        raise NotImplementedError

    @property
    def copies(self) -> int | None:
        """The length of the axis of copies in front of its trees; None where there is no such axis."""
        return None

    @property
    def is_chain(self) -> bool:
        """Whether its output is that of its children, each applied to the output of the one before."""
        return False

    @property
    def mixes_examples(self) -> bool:
        """Whether one of its children does."""
        return any(child.mixes_examples for child in self.children)

    @property
    def homogeneous(self) -> bool:
        """Where it is a chain of layers that are."""
        return self.is_chain and all(child.homogeneous for child in self.children)

    def without_checkpoint(self) -> Layer:
        """The same function with every cache kept, so that caches have the network's shape."""
        return self

    def split(self, tree: Any) -> tuple[Any, ...]:
        """A tree that belongs to this combinator, as one tree per child."""
        return (tree,)

    def join(self, trees: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        return trees[0]

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """The reverse loop without a probe."""
        d_params, dA_in, _ = self.sweep(params, cache, Cotangent(dA_out))
        return d_params, dA_in.value
