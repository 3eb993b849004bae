from . import (
    activations,
    cost,
    data,
    flow,
    initializers,
    layers,
    losses,
    report,
    studies,
    theory,
    training,
    tree,
    verify,
)
from .activations import Nonlinearity, activation
from .backprop import as_function, log10_gradient_norms, loss_value, value_and_grad
from .calibration import lsuv, with_population_statistics
from .combinators import Checkpoint, Repeat, Residual, Serial
from .errors import FbpError
from .initializers import Initializer, initializer
from .layers import Activation, Affine, BatchNorm, Dense, Dropout, Flatten, LayerNorm, RMSNorm
from .leaf_norms import gradient_norms
from .losses import HalfSquaredError, Loss, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from .networks import mlp
from .precision import cast
from .tracing import trace
from .typing import Layer, Visit
from .verify import compare

__all__ = [
    "Activation",
    "Affine",
    "BatchNorm",
    "Checkpoint",
    "Dense",
    "Dropout",
    "FbpError",
    "Flatten",
    "HalfSquaredError",
    "Initializer",
    "Layer",
    "LayerNorm",
    "Loss",
    "Nonlinearity",
    "RMSNorm",
    "Repeat",
    "Residual",
    "Serial",
    "SigmoidBinaryCrossEntropy",
    "SoftmaxCrossEntropy",
    "Visit",
    "activation",
    "activations",
    "as_function",
    "cast",
    "compare",
    "cost",
    "data",
    "flow",
    "gradient_norms",
    "initializer",
    "initializers",
    "layers",
    "log10_gradient_norms",
    "loss_value",
    "losses",
    "lsuv",
    "mlp",
    "report",
    "studies",
    "theory",
    "trace",
    "training",
    "tree",
    "value_and_grad",
    "verify",
    "with_population_statistics",
]
