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
