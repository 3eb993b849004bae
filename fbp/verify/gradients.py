"""Any gradient function against any scalar loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fbp.errors import FbpError
from fbp.verify.constants import without_constants
from fbp.verify.judges import judge
from fbp.verify.reference import Argnums
from fbp.verify.result import Verification


@dataclass(frozen=True)
class _WithoutValue:
    """A gradient function without the value it gives beside."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        found = self.function(*args)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise FbpError(f"with has_value=True a gradient function gives (value, gradient); received {type(found)}")
        return found[1]


def gradient(
    my_grad: Callable[..., Any],
    loss: Callable[..., Any],
    *args: Any,
    argnums: Argnums = 0,
    has_value: bool = False,
    directions: int = 2,
    seed: int = 0,
) -> Verification:
    """A gradient function against the scalar loss that it is the gradient of.

    Three judges look at each leaf. Autodiff: `jax.grad` of the loss in float64, with the difference that rounding
    explains in the gradient's dtype; where the gradient function computes in float64 when it is given float64, it is
    judged there too, and sharply. Differences: finite differences of the loss in float64 along directions in the leaf.
    Adjoint: its forward-mode derivative along the same. A leaf passes where one judge can speak and none objects.

    Args:
        my_grad: called as my_grad(*args), gives the gradient: a pytree in the structure of the differentiated argument.
        loss: called as loss(*args), gives a scalar; written in JAX.
        args: what both are called with: pytrees of arrays; Python integers, strings and the like are constants.
        argnums: which of the arguments is differentiated; a tuple where `my_grad` gives a tuple of gradients.
        has_value: whether `my_grad` gives (value, gradient), as `jax.value_and_grad` does.
        directions: how many random directions in each leaf.
        seed: of the directions and of the movements by which rounding is measured.

    Returns:
        A `Verification`: it prints as a table, and knows its verdict, hints and exit status.

    Raises:
        FbpError: a function cannot be called with these arguments, or the loss is not a scalar.
    """
    name = getattr(my_grad, "__name__", type(my_grad).__name__)
    gradient_alone = _WithoutValue(my_grad) if has_value else my_grad
    arrays, (candidate, scalar) = without_constants(args, gradient_alone, loss)
    return Verification(name, judge(candidate, scalar, arrays, argnums, directions, seed))


def assert_gradient(my_grad: Callable[..., Any], loss: Callable[..., Any], *args: Any, **options: Any) -> None:
    """`gradient` for tests: fails with the table as its message.

    Args:
        my_grad: as in `gradient`.
        loss: as in `gradient`.
        args: as in `gradient`.
        options: `argnums`, `has_value`, `directions`, `seed`.

    Raises:
        AssertionError: the verdict is not PASS.
    """
    __tracebackhide__ = True
    found = gradient(my_grad, loss, *args, **options)
    if found.verdict != "PASS":
        raise AssertionError(f"\n{found}")
