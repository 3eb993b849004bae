"""Many orthogonal matrices at once, by matrix products alone.

LAPACK's QR takes matrices one by one, and its threads wait for one another where the machine has other work.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCK = 64


def orthogonal(G: Float[np.ndarray, "k n n"]) -> Float[np.ndarray, "k n n"]:
    """Uniform draws from the orthogonal group, from standard normal ones.

    Q = H_1 ... H_n D is a product of Householder reflections, H_k = I - 2 v_k v_k^T / v_k^T v_k that takes a normal
    vector x_k of n - k + 1 entries to its first axis, and signs D; Stewart (1980), Mezzadri (2007). Their product is
    I - V T V^T with T^-1 = striu(V^T V) + diag(V^T V) / 2; Joffrain, Low, Quintana-Orti et al. (2006).

    Args:
        G: standard normal draws, of which the lower triangles are used.
    """
    block = min(BLOCK, len(G))
    # The last block overlaps the one before it, so that one compiled program serves all.
    starts = [*range(0, len(G) - block, block), len(G) - block]
    Q = np.empty_like(G)
    for start in starts:
        Q[start : start + block] = _reflected(jnp.asarray(G[start : start + block]))
    return Q


@jax.jit
def _reflected(G: Float[Array, "k n n"]) -> Float[Array, "k n n"]:
    X = jnp.tril(G)
    eye = jnp.eye(G.shape[-1], dtype=G.dtype)
    sign = jnp.where(jnp.diagonal(X, axis1=1, axis2=2) < 0, -1, 1).astype(G.dtype)
    length = jnp.sqrt(jnp.sum(X * X, axis=1))
    V = X + (sign * length)[:, None, :] * eye[None]
    Vt = jnp.swapaxes(V, 1, 2)
    products = Vt @ V
    T = _inverse_of_upper(jnp.triu(products) - 0.5 * products * eye[None])
    return (eye[None] - V @ (T @ Vt)) * -sign[:, None, :]


def _inverse_of_upper(U: Float[Array, "k n n"]) -> Float[Array, "k n n"]:
    """By halves: the inverse of [[A, B], [0, C]] is [[A^-1, -A^-1 B C^-1], [0, C^-1]]."""
    k, n = U.shape[:2]
    size = 1 << (n - 1).bit_length()
    beyond = jnp.diag((jnp.arange(size) >= n).astype(U.dtype))
    U = jnp.pad(U, ((0, 0), (0, size - n), (0, size - n))) + beyond[None]
    inverses = (1 / jnp.diagonal(U, axis1=1, axis2=2))[:, :, None, None]
    half = 1
    while half < size:
        blocks = U.reshape(k, size // (2 * half), 2 * half, size // (2 * half), 2 * half)
        B = jnp.diagonal(blocks, axis1=1, axis2=3)[:, :half, half:]
        A, C = inverses[:, 0::2], inverses[:, 1::2]
        corner = -A @ jnp.moveaxis(B, -1, 1) @ C
        top, bottom = jnp.concatenate([A, corner], -1), jnp.concatenate([jnp.zeros_like(A), C], -1)
        inverses = jnp.concatenate([top, bottom], -2)
        half *= 2
    return inverses[:, 0, :n, :n]
