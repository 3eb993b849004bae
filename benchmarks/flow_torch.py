"""Gradient flow as it is usually measured in PyTorch: one network after the other, hooks on its layers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__.lower(): kind
    for kind in (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.SELU, nn.ELU, nn.Sigmoid, nn.Softplus)
}
INITIALIZERS: dict[str, Callable[[Tensor], Any]] = {
    "he_normal": lambda W: nn.init.kaiming_normal_(W, nonlinearity="relu"),
    "he_uniform": lambda W: nn.init.kaiming_uniform_(W, nonlinearity="relu"),
    "glorot_normal": nn.init.xavier_normal_,
    "glorot_uniform": nn.init.xavier_uniform_,
    "lecun_normal": lambda W: nn.init.normal_(W, std=W.shape[1] ** -0.5),
    "orthogonal": nn.init.orthogonal_,
}
SATURATED = 0.1
READINGS = ("dZ", "dA", "dW", "db", "log10_mean_square", "correlation", "saturated", "dead", "cosine", "noise")
"""As `fbp.flow.Flow` defines them; norms as log10."""


def network(activation: str, init: str, depth: int, width: int) -> nn.Sequential:
    """`depth` dense layers of one width, biases zero, with the activation between them."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        dense = nn.Linear(width, width)
        INITIALIZERS[init](dense.weight)
        nn.init.zeros_(dense.bias)
        layers += [dense, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def measure(net: nn.Sequential, X: Tensor, dZ: Tensor, everything: bool) -> dict[str, np.ndarray]:
    """One forward and one backward pass, read off by hooks.

    Args:
        net: from `network`.
        X: inputs, (m, n).
        dZ: the cotangent of the output, (m, n).
        everything: all readings of `fbp.flow`; else the norms and the mean square alone.

    Returns:
        `READINGS` by layer, each (L,); NaN where they were not asked for.
    """
    dense = [layer for layer in net if isinstance(layer, nn.Linear)]
    found = {name: np.full(len(dense), math.nan) for name in READINGS}
    inputs: dict[int, Tensor] = {}
    deltas: dict[int, Tensor] = {}

    def forward(l: int, _: nn.Module, given: tuple[Tensor, ...], Z: Tensor) -> None:
        Z = Z.detach()
        found["log10_mean_square"][l] = _log10(Z.square().mean())
        if everything:
            found["correlation"][l] = _mean_cosine(Z @ Z.T)
            inputs[l] = given[0].detach()

    def backward(l: int, _: nn.Module, grad_input: Any, grad_output: Any) -> None:
        found["dA"][l], found["dZ"][l] = _log10(grad_input[0].norm()), _log10(grad_output[0].norm())
        if everything:
            deltas[l] = grad_output[0]

    handles = []
    for l, layer in enumerate(dense):
        handles.append(layer.register_forward_hook(partial(forward, l)))
        handles.append(layer.register_full_backward_hook(partial(backward, l)))
    net(X.clone().requires_grad_()).backward(dZ)
    for handle in handles:
        handle.remove()
    for l, layer in enumerate(dense):
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        found["dW"][l], found["db"][l] = _log10(layer.weight.grad.norm()), _log10(layer.bias.grad.norm())
    if everything:
        activations = [layer for layer in net if not isinstance(layer, nn.Linear)]
        largest = _steepest(activations[0]) if activations else 0.0
        for l, A in inputs.items():
            inner = (A @ A.T) * (deltas[l] @ deltas[l].T)
            m, total, trace = len(A), inner.sum(), inner.trace()
            found["cosine"][l] = _mean_cosine(inner)
            found["noise"][l] = ((trace - total / m) * m**2 / ((m - 1) * total)).item()
            if l < len(activations):
                with torch.no_grad():
                    Z = dense[l](A)
                flat = _slope(activations[l], Z).abs() < SATURATED * largest
                found["saturated"][l] = flat.float().mean().item()
                found["dead"][l] = flat.all(dim=0).float().mean().item()
    return found


def _slope(activation: nn.Module, Z: Tensor) -> Tensor:
    Z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(activation(Z).sum(), Z)
    return slope


def _steepest(activation: nn.Module) -> float:
    return _slope(activation, torch.linspace(-12, 12, 4801)).abs().max().item()


def _log10(x: Tensor) -> float:
    value = x.item()
    return math.log10(value) if value > 0 else -math.inf


def _mean_cosine(gram: Tensor) -> float:
    m, scale = len(gram), gram.diagonal().rsqrt()
    return (((gram * scale[:, None] * scale[None, :]).sum() - m) / (m * (m - 1))).item()
