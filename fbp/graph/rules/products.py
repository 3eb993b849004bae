"""Products of matrices, solutions of linear systems and factorizations."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fbp.graph.rules.base import Applied, Cotangents, Rule, fill_zeros, per_input, single


def _rest(ndim: int, *taken: Sequence[int]) -> list[int]:
    return [i for i in range(ndim) if all(i not in axes for axes in taken)]


def _pull_left(
    dy: Array, x: Array, z: Array, contract: Any, batch: Any, dy_free: Sequence[int], params: dict[str, Any]
) -> Array:
    """dx[b, i, k] = Σ_j dy[b, i, j] z[b, k, j], with b batch, k contracted, i and j free axes of x and z."""
    (x_contract, z_contract), (x_batch, z_batch) = contract, batch
    z_free = _rest(z.ndim, z_contract, z_batch)
    dx = lax.dot_general(
        dy,
        z,
        ((dy_free, z_free), (tuple(range(len(z_batch))), z_batch)),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    # The contracted axes come out in the order of z.
    contracted = [x_contract[i] for i in np.argsort(z_contract)]
    order = (*x_batch, *_rest(x.ndim, x_contract, x_batch), *contracted)
    return lax.convert_element_type(lax.transpose(dx, np.argsort(order)), x.dtype)


def _left(dy: Array, y: Array, x: Array, z: Array, *, dimension_numbers: Any, **params: Any) -> Array:
    (xc, zc), (xb, zb) = dimension_numbers
    free = range(dy.ndim - (z.ndim - len(zc) - len(zb)), dy.ndim)
    return _pull_left(dy, x, z, (xc, zc), (xb, zb), tuple(free), params)


def _right(dy: Array, y: Array, x: Array, z: Array, *, dimension_numbers: Any, **params: Any) -> Array:
    (xc, zc), (xb, zb) = dimension_numbers
    free = range(len(xb), x.ndim - len(xc))
    return _pull_left(dy, z, x, (zc, xc), (zb, xb), tuple(free), params)


def _T(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _matmul(x: Array, z: Array) -> Array:
    return jnp.matmul(x, z, precision="highest")


def _low_half(x: Array) -> Array:
    """Φ(x): the lower triangle with half of the diagonal."""
    return jnp.tril(x) - 0.5 * x * jnp.eye(x.shape[-1], dtype=x.dtype)[(None,) * (x.ndim - 2)]


def _solve_triangular(a: Array, b: Array, **params: Any) -> Array:
    return lax.linalg.triangular_solve(a, b, **params)


def _cholesky(dy: Array, y: Array, x: Array, **_: Any) -> Array:
    # What stands above the diagonal of the primitive's output is not part of L.
    y = jnp.tril(y)
    inner = _low_half(_matmul(_T(y), jnp.tril(dy)))
    left = _solve_triangular(y, inner, left_side=True, lower=True, transpose_a=True)
    return _solve_triangular(y, left, left_side=False, lower=True)


def _triangular_solve(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    (a, _), (y,), dy, p = applied.x, applied.y, single(d), applied.params
    back = dict(p, transpose_a=not p["transpose_a"])
    if p["conjugate_a"]:
        dy = lax.conj(dy)
    db = _solve_triangular(a, dy, **dict(back, conjugate_a=False))
    db = lax.conj(db) if p["conjugate_a"] else db
    if not wanted[0]:
        return [None, db]
    product = _matmul(db, _T(y)) if p["left_side"] else _matmul(_T(y), db)
    da = -(_T(product) if p["transpose_a"] else product)
    da = jnp.tril(da, -1 if p["unit_diagonal"] else 0) if p["lower"] else jnp.triu(da, 1 if p["unit_diagonal"] else 0)
    return [lax.conj(da) if p["conjugate_a"] else da, db if wanted[1] else None]


def _eigh(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """dx = V (diag dw + (Vᴴ dV) / (w_j - w_i)) Vᴴ."""
    (v, w), (dv, dw) = applied.y, fill_zeros(d, applied.y)
    gap = w[..., None, :] - w[..., :, None]
    eye = jnp.eye(w.shape[-1], dtype=w.dtype)[(None,) * (w.ndim - 1)]
    inverse = (1 / (gap + eye) - eye).astype(v.dtype)
    inner = _matmul(_T(v), dv) * inverse + eye.astype(v.dtype) * dw[..., None, :].astype(v.dtype)
    return [_matmul(lax.conj(v) if jnp.iscomplexobj(v) else v, _matmul(inner, _T(v)))]


def _svd(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """x = U S Vᵀ, real, U and V thin:  dx = U (dS + (F∘skew(Uᵀ dU)) S + S (F∘skew(Vᵀ dV))) Vᵀ and what leaves them."""
    x = applied.x[0]
    if len(applied.y) == 1:
        u, s, vt = lax.linalg.svd(x, full_matrices=False)
        (ds,) = fill_zeros(d, applied.y)
        return [_matmul(u * ds[..., None, :], vt)]
    (s, u, vt), (ds, du, dvt) = applied.y, fill_zeros(d, applied.y)
    v, dv = _T(vt), _T(dvt)
    eye = jnp.eye(s.shape[-1], dtype=s.dtype)[(None,) * (s.ndim - 1)]
    square = s * s
    f = 1 / (square[..., None, :] - square[..., :, None] + eye) - eye
    skew = lambda m: f * (m - _T(m))
    s_row, s_column = s[..., None, :], s[..., :, None]
    inner = skew(_matmul(_T(u), du)) * s_row + s_column * skew(_matmul(vt, dv)) + eye * ds[..., None, :]
    dx = _matmul(_matmul(u, inner), vt)
    rows, columns = x.shape[-2:]
    if rows > columns:
        left = du / s_row
        dx += _matmul(left - _matmul(u, _matmul(_T(u), left)), vt)
    if columns > rows:
        right = dv / s_row
        dx += _matmul(u, _T(right - _matmul(v, _matmul(vt, right))))
    return [dx]


def _qr(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """dx = (dQ + Q copyltu(R dRᵀ - dQᵀ Q)) R⁻ᵀ."""
    (q, r), (dq, dr) = applied.y, fill_zeros(d, applied.y)
    m = _matmul(r, _T(dr)) - _matmul(_T(dq), q)
    symmetric = jnp.tril(m) + _T(jnp.tril(m, -1))
    right = dq + _matmul(q, symmetric)
    return [_solve_triangular(r, right, left_side=False, lower=False, transpose_a=True)]


def _lu(applied: Applied, d: Cotangents, wanted: Sequence[bool]) -> Cotangents:
    """x = Pᵀ L U, square:  dx = Pᵀ L⁻ᵀ (tril(Lᵀ dL, -1) + triu(dU Uᵀ)) U⁻ᵀ."""
    (lu, _, permutation), dlu = applied.y, single(d)
    lower = jnp.tril(lu, -1) + jnp.eye(lu.shape[-1], dtype=lu.dtype)[(None,) * (lu.ndim - 2)]
    upper = jnp.triu(lu)
    inner = jnp.tril(_matmul(_T(lower), jnp.tril(dlu, -1)), -1) + jnp.triu(_matmul(jnp.triu(dlu), _T(upper)))
    left = _solve_triangular(lower, inner, left_side=True, lower=True, transpose_a=True, unit_diagonal=True)
    both = _solve_triangular(upper, left, left_side=False, lower=False, transpose_a=True)
    return [jnp.take_along_axis(both, jnp.argsort(permutation, axis=-1)[..., :, None], -2)]


def _fft(dy: Array, y: Array, x: Array, *, fft_type: Any, fft_lengths: Sequence[int], **_: Any) -> Array:
    """A Fourier transform is a symmetric matrix; a real one drops half of the spectrum."""
    kind, lengths = lax.FftType(fft_type), tuple(fft_lengths)
    if kind in (lax.FftType.FFT, lax.FftType.IFFT):
        return lax.fft(dy, kind, lengths)
    n = lengths[-1]
    if kind == lax.FftType.RFFT:
        padding = [(0, 0, 0)] * (dy.ndim - 1) + [(0, n - dy.shape[-1], 0)]
        return lax.real(lax.fft(lax.pad(dy, np.zeros((), dy.dtype), padding), lax.FftType.FFT, lengths))
    spectrum = lax.fft(dy, lax.FftType.RFFT, lengths)
    # Entries of the half spectrum stand for two of the whole one, but for the first and, n even, the last.
    weight = np.full(spectrum.shape[-1], 2.0)
    weight[0] = 1.0
    if n % 2 == 0:
        weight[-1] = 1.0
    scale = jnp.asarray(weight / np.prod(lengths), dy.dtype).reshape((1,) * (spectrum.ndim - 1) + (-1,))
    return lax.conj(spectrum * lax.convert_element_type(scale, spectrum.dtype))


RULES: tuple[Rule, ...] = (
    per_input("dot_general", "y = x z:  dx = dy zᵀ,  dz = xᵀ dy, batch axes kept", _left, _right),
    per_input("cholesky", "x = L Lᵀ:  dx = L⁻ᵀ Φ(Lᵀ dL) L⁻¹, Φ the lower triangle, half the diagonal", _cholesky),
    Rule("triangular_solve", "a y = b:  db = a⁻ᵀ dy,  da = -db yᵀ in the triangle", _triangular_solve),
    Rule("eigh", "x V = V w:  dx = V (diag dw + Vᵀ dV / (w_j - w_i)) Vᵀ", _eigh),
    Rule(
        "svd",
        "x = U S Vᵀ:  dx = U (dS + (F∘skew(Uᵀ dU)) S + S (F∘skew(Vᵀ dV))) Vᵀ, F = 1 / (s_j² - s_i²); "
        "a long x has (dU - U Uᵀ dU) S⁻¹ Vᵀ more, a wide one U S⁻¹ (dV - V Vᵀ dV)ᵀ",
        _svd,
    ),
    Rule("qr", "x = Q R:  dx = (dQ + Q copyltu(R dRᵀ - dQᵀ Q)) R⁻ᵀ", _qr),
    Rule("lu", "x = Pᵀ L U:  dx = Pᵀ L⁻ᵀ (tril(Lᵀ dL) + triu(dU Uᵀ)) U⁻ᵀ", _lu),
    per_input("fft", "y = F x:  dx = Fᵀ dy", _fft),
)
