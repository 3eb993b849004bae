"""Operations of jax.scipy."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.scipy as jsp
from jax.scipy.interpolate import RegularGridInterpolator
from jax.scipy.special import multigammaln

from operations.operation import (
    WIDE,
    Operation,
    definite,
    integers,
    normal,
    op,
    positive,
    probabilities,
    regular,
    uniform,
    unit,
)

V, P, U = normal(6), positive(6), unit(6)
special, stats, linalg, signal = jsp.special, jsp.stats, jsp.linalg, jsp.signal

SPECIAL: tuple[tuple[Any, ...], ...] = (
    (special.gammaln, P), (special.digamma, P), (special.gamma, P), (special.erf, V), (special.erfc, V),
    (special.erfinv, uniform(-0.9, 0.9, 6)), (special.expit, V),
    (special.logit, U), (special.entr, P), (special.i0, V), (special.i0e, V), (special.i1, V), (special.i1e, V),
    (special.xlogy, P, positive(6)), (special.xlog1py, P, positive(6)), (special.kl_div, P, positive(6)),
    (special.rel_entr, P, positive(6)), (special.betaln, P, positive(6)), (special.beta, P, positive(6)),
    (special.softmax, normal(4, 4)), (special.log_softmax, normal(4, 5)),
    (special.logsumexp, normal(4, 5)),
    (special.dawsn, V), (special.erfcx, P), (special.boxcox, P, V), (special.poch, P, positive(6)),
)  # fmt: skip

WITHOUT_HALF: tuple[tuple[Any, ...], ...] = (
    (special.ndtr, V), (special.log_ndtr, V), (special.ndtri, U),
    (special.expi, P), (special.exp1, P),
    (special.gammainc, P, positive(6)), (special.gammaincc, P, positive(6)),
)  # fmt: skip

LOCATED = (stats.norm, stats.cauchy, stats.laplace, stats.logistic)
"""Distributions with a location and a scale."""


def solve_by_cholesky(a: Any, b: Any) -> Any:
    # `cho_factor` reads one triangle, and its gradient is that of both.
    return linalg.cho_solve(linalg.cho_factor((a + a.T) / 2), b)


TABLE: dict[str, tuple[Operation, ...]] = {
    "jax.scipy": (
        *(op(f"special.{f.__name__}", f, *draws) for f, *draws in SPECIAL),
        *(op(f"special.{f.__name__}", f, *draws, dtypes=WIDE) for f, *draws in WITHOUT_HALF),
        op("special.betainc", special.betainc, P, positive(6), U, dtypes=WIDE, argnums=(2,)),
        op("special.zeta", lambda q: special.zeta(2.5, q), P, dtypes=WIDE),
        op("special.polygamma", lambda x: special.polygamma(1, x), P, dtypes=WIDE),
        op("special.expn", lambda x: special.expn(2, x), P, dtypes=WIDE),
        op("special.multigammaln", lambda a: multigammaln(a + 2, 3), P),
        *(op(f"stats.{d.__name__.split('.')[-1]}.logpdf", d.logpdf, V, normal(6), positive(6)) for d in LOCATED),
        op("stats.norm.logcdf", stats.norm.logcdf, V, normal(6), positive(6), dtypes=WIDE),
        op("stats.norm.logsf", stats.norm.logsf, V, dtypes=WIDE),
        op("stats.norm.cdf", stats.norm.cdf, V, dtypes=WIDE),
        op("stats.logistic.cdf", stats.logistic.cdf, V),
        op("stats.t.logpdf", stats.t.logpdf, V, uniform(2, 5, 6), normal(6), positive(6)),
        op("stats.gamma.logpdf", stats.gamma.logpdf, P, positive(6)),
        op("stats.beta.logpdf", stats.beta.logpdf, U, positive(6), positive(6)),
        op("stats.chi2.logpdf", stats.chi2.logpdf, P, uniform(2, 5, 6)),
        op("stats.expon.logpdf", stats.expon.logpdf, P),
        op("stats.pareto.logpdf", stats.pareto.logpdf, uniform(2, 4, 6), positive(6)),
        op("stats.uniform.logpdf", stats.uniform.logpdf, U, uniform(-1, 0, 6), uniform(2, 3, 6)),
        op("stats.dirichlet.logpdf", stats.dirichlet.logpdf, probabilities(4), positive(4), dtypes=WIDE, argnums=(1,)),
        op(
            "stats.multivariate_normal.logpdf",
            stats.multivariate_normal.logpdf,
            normal(3),
            normal(3),
            definite(3),
            dtypes=WIDE,
        ),
        op("stats.poisson.logpmf", stats.poisson.logpmf, integers(6, 5), positive(5)),
        op("stats.bernoulli.logpmf", stats.bernoulli.logpmf, integers(2, 5), unit(5)),
        op("stats.binom.logpmf", lambda k, p: stats.binom.logpmf(k, 8, p), integers(8, 5), unit(5), dtypes=WIDE),
        op("stats.nbinom.logpmf", lambda k, p: stats.nbinom.logpmf(k, 3, p), integers(6, 5), unit(5), dtypes=WIDE),
        op("stats.vonmises.logpdf", stats.vonmises.logpdf, V, positive(6)),
        op("stats.truncnorm.logpdf", lambda x, m: stats.truncnorm.logpdf(x, -2, 2, m, 2.0), U, normal(6), dtypes=WIDE),
        op("linalg.expm", linalg.expm, normal(3, 3), dtypes=WIDE),
        op("linalg.cho_solve", solve_by_cholesky, definite(4), normal(4), dtypes=WIDE),
        op("linalg.lu_solve", lambda a, b: linalg.lu_solve(linalg.lu_factor(a), b), regular(4), normal(4), dtypes=WIDE),
        op("linalg.solve_triangular", partial(linalg.solve_triangular, lower=True), regular(4), normal(4), dtypes=WIDE),
        op("linalg.block_diag", linalg.block_diag, normal(2, 2), normal(3, 3)),
        op("linalg.toeplitz", linalg.toeplitz, normal(4)),
        op("signal.convolve", signal.convolve, normal(8), normal(3)),
        op("signal.correlate2d", signal.correlate2d, normal(5, 5), normal(3, 3)),
        op("signal.fftconvolve", signal.fftconvolve, normal(8), normal(3), dtypes=WIDE),
        op("signal.detrend", signal.detrend, normal(8), dtypes=WIDE),
        op("signal.welch", lambda x: signal.welch(x, nperseg=8)[1], normal(32), dtypes=WIDE),
        op(
            "ndimage.map_coordinates",
            lambda x, at: jsp.ndimage.map_coordinates(x, [at[0], at[1]], order=1),
            normal(5, 5),
            uniform(0.2, 3.8, 2, 6),
        ),
        op(
            "interpolate.RegularGridInterpolator",
            lambda f, at: RegularGridInterpolator((jnp.arange(4.0), jnp.arange(5.0)), f)(at),
            normal(4, 5),
            uniform(0.2, 2.8, 6, 2),
            dtypes=WIDE,
        ),
    )
}
