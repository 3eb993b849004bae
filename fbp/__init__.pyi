from . import activations, data, flow, initializers, layers, losses, report, theory, training, verify, walk
from .architectures import mlp
from .backprop import as_function, log10_gradient_norms, loss_value, value_and_grad
from .calibration import lsuv, with_population_statistics
from .combinators import Checkpoint, Repeat, Residual, Serial
from .errors import FbpError
from .layers import Activation, Affine, BatchNorm, Dense, Dropout, Flatten, LayerNorm, RMSNorm
from .losses import HalfSquaredError, Loss, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
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
    "Layer",
    "LayerNorm",
    "Loss",
    "RMSNorm",
    "Repeat",
    "Residual",
    "Serial",
    "SigmoidBinaryCrossEntropy",
    "SoftmaxCrossEntropy",
    "Visit",
    "activations",
    "as_function",
    "cast",
    "compare",
    "data",
    "flow",
    "initializers",
    "layers",
    "log10_gradient_norms",
    "loss_value",
    "losses",
    "lsuv",
    "mlp",
    "report",
    "theory",
    "trace",
    "training",
    "value_and_grad",
    "verify",
    "walk",
    "with_population_statistics",
]
