"""Gradients of two inputs, gradients along the pre-activations, and layers that are dead at birth."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import HE, draw_normal
from papers_rows.row import DERIVED, Measured, Row, jackknife

WIDTH, EXAMPLES = 300, 8
SHATTERED = (
    "Examples become alike on their way through relu layers, and so do their gradients: the correlation falls like a "
    "power of the depth, not exponentially."
)


def shattering(quick: bool) -> Iterator[Row]:
    """Balduzzi, Lu, and the gradient along Z."""
    yield from _balduzzi(quick)
    yield from _softplus(quick)
    yield from _dying(quick)


def _correlation(depth: int, residual: bool | float, networks: int) -> Measured:
    """The cosine of two examples' gradients, orthogonal inputs and a common cotangent."""
    net = fbp.mlp((WIDTH,) * (depth + 2), "relu", "he_normal", residual=residual)
    # Orthogonal inputs of mean square 1.
    X = math.sqrt(WIDTH) * jnp.eye(EXAMPLES, WIDTH)
    flow = fbp.flow.measure(net, X=X, seeds=networks, seed=70, common_cotangent=True)
    return jackknife(np.asarray(flow.values("stream_dZ_cosine")[0, :, 0], np.float64))


def _balduzzi(quick: bool) -> Iterator[Row]:
    networks, source = 8 if quick else 40, "Balduzzi et al. 2017"
    cases = [(1, False, 0.5), (4, False, 0.5**4), (1, True, 0.75), (4, True, 0.75**4)]
    if not quick:
        cases += [(2, False, 0.5**2), (2, True, 0.75**2), (16, False, 0.5**16)]
    for depth, residual, stated in cases:
        expected = theory.propagation("relu", HE, depth=depth, residual=residual, c_0=0.0).dZ_correlation[0]
        name = "x + W relu(x)" if residual else "relu"
        where = f"{name}, He, orthogonal inputs, common cotangent, n={WIDTH}, L={depth}"
        measured = _correlation(depth, residual, networks)
        what = "correlation of two examples' gradients"
        yield Row("shattering", source, where, what, stated, expected, measured, 0.015, finding=SHATTERED)
    depth = 16
    expected = theory.propagation("relu", HE, depth=depth, residual=depth**-0.5, c_0=0.0).dZ_correlation[0]
    where = f"x + 1/√L W relu(x), He, orthogonal inputs, common cotangent, n={WIDTH}, L={depth}"
    what = "correlation of two examples' gradients"
    yield Row("shattering-scaled", DERIVED, where, what, None, expected, _correlation(depth, depth**-0.5, networks))


def _softplus(quick: bool) -> Iterator[Row]:
    width, depth, networks = 60, 20, 100 if quick else 600
    net = fbp.mlp((width,) * (depth + 2), "softplus", "he_normal")
    X = draw_normal(np.random.default_rng(71), (1, width))
    X = jnp.asarray(X * np.float32(width**0.5 / np.linalg.norm(X)))
    flow = fbp.flow.measure(net, X=X, seeds=networks, seed=71)
    logs = 2 * np.asarray(flow.log10.dZ[0], np.float64)
    gains = jackknife(10 ** (logs[:, 0] - logs[:, -1]), lambda x: math.log10(x.mean()))
    options = {"depth": depth, "q_0": 2.0}
    limit = theory.propagation("softplus", HE, **options).log10_dZ[0]
    expected = theory.propagation("softplus", HE, width=width, **options).log10_dZ[0]
    # The part of the gradient along Z, one part in n at the output, shrinks by F'^2 q/q' a layer in place of chi_1.
    where = f"softplus, He, n={width}, L={depth}"
    what = f"log10 of ‖dZ‖² over the network ({limit:.2f} for large n)"
    yield Row("softplus", DERIVED, where, what, None, expected, gains, 0.05)


def _dying(quick: bool) -> Iterator[Row]:
    """A layer of n units is shut at an example with probability 2^-n, whatever comes in."""
    depth, networks = 20, 2000 if quick else 20000
    rng = np.random.default_rng(72)
    for width in (3, 5):
        stated = 1 - (1 - 0.5**width) ** depth
        A = np.abs(rng.standard_normal((networks, width)))
        for _ in range(depth):
            W = rng.standard_normal((networks, width, width))
            A = np.maximum(np.einsum("si,sij->sj", A, W), 0)
            # Only signs count.
            A /= np.maximum(A.max(axis=1, keepdims=True), 1e-300)
        dead = jackknife((A.max(axis=1) == 0).astype(np.float64))
        where, what = f"relu, no biases, n={width}, L={depth}, one example", "part of networks that is born dead"
        yield Row("dying-relu", "Lu et al. 2019", where, what, stated, stated, dead, 0.03)
