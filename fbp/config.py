"""A network, its loss and its initial parameters from the options of a command line.

The command line reads its options off this class before anything heavy is imported; hence the imports inside.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fbp.errors import FbpError

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Num
    from numpy.typing import ArrayLike

    from fbp.combinators import Serial
    from fbp.losses import Loss
    from fbp.typing import Params


@dataclass(frozen=True)
class NetworkConfig:
    """A network, its loss and its initialization, as the command line names them."""

    layers: str = "784,128,64,10"
    """Widths n_0,...,n_L, input first."""
    activation: str = "relu"
    """One for all hidden layers, or one each: relu, tanh, gelu, leaky_relu(0.2), ..."""
    init: str = "he_normal"
    """Initializer: he_normal, glorot_uniform, orthogonal, normal(0.01), mean_field(1.3,0.2), lsuv, ..."""
    norm: str = "none"
    """Normalization before each activation: none, batch, layer or rms."""
    residual: bool = False
    """Put a residual connection around each block that keeps the width."""
    dropout: float = 0.0
    """Rate of dropout after each activation."""
    loss: str = "softmax_cross_entropy"
    """softmax_cross_entropy, sigmoid_binary_cross_entropy or half_squared_error."""
    seed: int = 0
    """Seed of all randomness."""

    def network(self) -> "Serial":
        """The network.

        Raises:
            FbpError: a width, a name or a number of activations does not fit.
        """
        from fbp.networks import mlp

        activations = names(self.activation)
        return mlp(
            self._widths(),
            activations[0] if len(activations) == 1 else activations,
            # LSUV starts from orthonormal weights; `parameters` does the rest.
            "orthogonal" if self.init == "lsuv" else self.init,
            norm=self.norm,
            residual=self.residual,
            dropout=self.dropout,
        )

    def objective(self) -> "Loss":
        """The loss."""
        from fbp.losses import loss

        return loss(self.loss)

    def check(self, inputs: int, classes: int) -> None:
        """Refuse a network whose first or last width does not fit the data.

        Args:
            inputs: the number of entries of one example.
            classes: the number of labels.

        Raises:
            FbpError: a width does not fit.
        """
        widths = self._widths()
        if widths[0] != inputs or widths[-1] < classes:
            raise FbpError(
                f"layers must begin with the {inputs} inputs of the data and end with at least its {classes} classes, "
                f"got {self.layers}; use {inputs},128,64,{classes}"
            )

    def parameters(self, X: "Float[Array, 'm n_in']") -> "Params":
        """The initial parameters; LSUV scales them by a batch of inputs, X."""
        import jax

        from fbp.calibration import lsuv

        net = self.network()
        params, _ = net.init(jax.random.key(self.seed))
        return lsuv(net, params, X) if self.init == "lsuv" else params

    def targets(self, Y: "ArrayLike") -> "Num[Array, '...']":
        """Labels as the loss takes them: as they are, or one-hot."""
        import jax

        from fbp.losses import SoftmaxCrossEntropy

        labels = jax.numpy.asarray(Y)
        integer = isinstance(self.objective(), SoftmaxCrossEntropy)
        return labels if integer else jax.nn.one_hot(labels, self._widths()[-1])

    def _widths(self) -> tuple[int, ...]:
        return integers("layers", self.layers)


def integers(what: str, text: str) -> tuple[int, ...]:
    """Parse integers with commas between them.

    Args:
        what: the name of the option, for the message.
        text: as it was typed.

    Raises:
        FbpError: an item is not an integer.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise FbpError(f"{what} must be integers with commas between them, got {text!r}; use e.g. 10,50,200") from error


def names(text: str) -> list[str]:
    """Split names at their commas; a comma in brackets belongs to its name."""
    return re.split(r",(?![^(]*\))", text)
