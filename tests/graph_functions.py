"""Functions that nobody here wrote: of jax.scipy, jax.nn, jax.numpy and Optax."""

import jax
import jax.experimental.ode
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import optax
from graph_cases import Arg

X, P, U, W = Arg((4, 5)), Arg((4, 5), 0.2, 2.5), Arg((4, 5), 0.1, 0.9), Arg((4, 5), -0.9, 0.9)
Y, Q = Arg((4, 5)), Arg((4, 5), 0.3, 2.0)
A, V = Arg((4, 4)), Arg((4,))
LABELS = np.arange(4, dtype=np.int32)
ONE_HOT = np.eye(5, dtype=np.float32)[:4]


def _safe(x):
    return x @ x.T + 2 * jnp.eye(x.shape[0], dtype=x.dtype)


special = jsp.special
SPECIAL = {
    "bessel_i0": (special.i0, [X]),
    "bessel_i0e": (special.i0e, [X]),
    "bessel_i1": (special.i1, [X]),
    "bessel_i1e": (special.i1e, [X]),
    "betainc": (lambda x: special.betainc(2.0, 3.0, x), [U]),
    "betaln": (special.betaln, [P, Q]),
    "digamma": (special.digamma, [P]),
    "entr": (special.entr, [P]),
    "erf": (special.erf, [X]),
    "erfc": (special.erfc, [X]),
    "erfinv": (special.erfinv, [W]),
    "exp1": (special.exp1, [P]),
    "expi": (special.expi, [P]),
    "expit": (special.expit, [X]),
    "expn": (lambda x: special.expn(2, x), [P]),
    "gamma": (special.gamma, [P]),
    "gammainc": (special.gammainc, [P, Q]),
    "gammaincc": (special.gammaincc, [P, Q]),
    "gammaln": (special.gammaln, [P]),
    "kl_div": (special.kl_div, [P, Q]),
    "log_ndtr": (special.log_ndtr, [X]),
    "log_softmax": (special.log_softmax, [X]),
    "logit": (special.logit, [U]),
    "logsumexp": (special.logsumexp, [X]),
    "multigammaln": (lambda x: special.multigammaln(x + 3, 3), [P]),
    "ndtr": (special.ndtr, [X]),
    "ndtri": (special.ndtri, [U]),
    "poch": (lambda x: special.poch(x, jnp.full_like(x, 2.5)), [P]),
    "polygamma": (lambda x: special.polygamma(2, x), [P]),
    "rel_entr": (special.rel_entr, [P, Q]),
    "softmax": (special.softmax, [X]),
    "xlog1py": (special.xlog1py, [P, Q]),
    "xlogy": (special.xlogy, [P, Q]),
    "sici": (lambda x: special.sici(x)[0], [P]),
}
stats = jsp.stats
STATS = {
    "beta": (lambda x: stats.beta.logpdf(x, 2.0, 3.0), [U]),
    "cauchy": (stats.cauchy.logpdf, [X]),
    "chi2": (lambda x: stats.chi2.logpdf(x, 3.0), [P]),
    "dirichlet": (lambda x: stats.dirichlet.logpdf(x / x.sum(), jnp.full(4, 2.0, x.dtype)), [Arg((4,), 0.2, 1.0)]),
    "expon": (stats.expon.logpdf, [P]),
    "gamma": (lambda x, a: stats.gamma.logpdf(x, a), [P, Q]),
    "gennorm": (lambda x: stats.gennorm.logpdf(x, 1.5), [X]),
    "kde": (lambda x, y: stats.gaussian_kde(x)(y), [Arg((6,)), Arg((3,))]),
    "laplace": (stats.laplace.logpdf, [X]),
    "logistic": (stats.logistic.logpdf, [X]),
    "logistic_cdf": (stats.logistic.cdf, [X]),
    "multivariate_normal": (lambda x, a: stats.multivariate_normal.logpdf(x, jnp.zeros(4, x.dtype), _safe(a)), [V, A]),
    "nbinom": (lambda p: stats.nbinom.logpmf(3.0, 2.0, p), [U]),
    "norm": (stats.norm.logpdf, [X, Y, P]),
    "norm_cdf": (stats.norm.cdf, [X]),
    "norm_logcdf": (stats.norm.logcdf, [X]),
    "norm_ppf": (stats.norm.ppf, [U]),
    "pareto": (lambda x: stats.pareto.logpdf(x + 1, 2.0), [P]),
    "poisson": (lambda mu: stats.poisson.logpmf(3.0, mu), [P]),
    "t": (lambda x, df: stats.t.logpdf(x, df), [X, P]),
    "truncnorm": (lambda x: stats.truncnorm.logpdf(x, -2.0, 2.0), [W]),
    "uniform": (lambda x: stats.uniform.logpdf(x, 0.0, 2.0) + x, [U]),
    "vonmises": (lambda x, k: stats.vonmises.logpdf(x, k), [X, P]),
    "wrapcauchy": (lambda x: stats.wrapcauchy.logpdf(x, 0.5), [P]),
}
nn = jax.nn
ACTIVATIONS = (
    *("relu", "relu6", "sigmoid", "softplus", "sparse_plus", "sparse_sigmoid", "soft_sign", "silu", "log_sigmoid"),
    *("leaky_relu", "hard_sigmoid", "hard_silu", "hard_tanh", "elu", "celu", "selu", "gelu", "squareplus", "mish"),
    *("softmax", "log_softmax", "logsumexp", "standardize", "identity"),
)
NETWORKS = {
    **{name: (getattr(nn, name), [X]) for name in ACTIVATIONS},
    "glu": (nn.glu, [Arg((4, 6))]),
    "gelu_exact": (lambda x: nn.gelu(x, approximate=False), [X]),
    "attention": (
        lambda q, k, v: nn.dot_product_attention(q, k, v, is_causal=True),
        [Arg((2, 4, 2, 3)), Arg((2, 4, 2, 3)), Arg((2, 4, 2, 3))],
    ),
    "one_hot": (lambda x: nn.one_hot(LABELS, 5, dtype=x.dtype) @ x.T, [X]),
}
LOSSES = {
    "squared_error": (optax.squared_error, [X, Y]),
    "l2": (optax.l2_loss, [X, Y]),
    "huber": (optax.huber_loss, [X, Y]),
    "log_cosh": (optax.log_cosh, [X, Y]),
    "cosine_similarity": (optax.cosine_similarity, [X, Y]),
    "cosine_distance": (optax.cosine_distance, [X, Y]),
    "sigmoid_cross_entropy": (lambda x: optax.sigmoid_binary_cross_entropy(x, ONE_HOT), [X]),
    "softmax_cross_entropy": (lambda x: optax.softmax_cross_entropy(x, ONE_HOT), [X]),
    "softmax_integer": (lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS), [X]),
    "safe_softmax": (lambda x: optax.safe_softmax_cross_entropy(x, ONE_HOT), [X]),
    "poly": (lambda x: optax.losses.poly_loss_cross_entropy(x, ONE_HOT), [X]),
    "focal": (lambda x: optax.sigmoid_focal_loss(x, ONE_HOT), [X]),
    "hinge": (lambda x: optax.hinge_loss(x, 2 * ONE_HOT - 1), [X]),
    "perceptron": (lambda x: optax.losses.perceptron_loss(x, 2 * ONE_HOT - 1), [X]),
    "multiclass_hinge": (lambda x: optax.losses.multiclass_hinge_loss(x, LABELS), [X]),
    "sparsemax": (lambda x: optax.losses.multiclass_sparsemax_loss(x, LABELS), [X]),
    "kl": (lambda x, y: optax.losses.kl_divergence(nn.log_softmax(x), nn.softmax(y)), [X, Y]),
    "kl_log": (lambda x, y: optax.losses.kl_divergence_with_log_targets(nn.log_softmax(x), nn.log_softmax(y)), [X, Y]),
    "generalized_kl": (lambda x, y: optax.losses.generalized_kl_divergence(nn.log_softmax(x), nn.softmax(y)), [X, Y]),
    "ctc": (
        lambda x: optax.losses.ctc_loss(
            x, jnp.zeros((2, 6), x.dtype), LABELS[None, :3] % 3 + 1 + 0 * LABELS[:2, None], jnp.zeros((2, 3), x.dtype)
        ),
        [Arg((2, 6, 4))],
    ),
    "ranking": (lambda x: optax.losses.ranking_softmax_loss(x, ONE_HOT), [X]),
    "triplet": (lambda x, y, z: optax.losses.triplet_margin_loss(x, y, z), [X, Y, Q]),
    "ntxent": (lambda x: optax.losses.ntxent(x, LABELS // 2), [X]),
    "smooth_labels": (lambda x: optax.softmax_cross_entropy(x, optax.smooth_labels(ONE_HOT, 0.1)), [X]),
    "tree_norm": (lambda x, y: optax.tree.norm([x, y]), [X, Y]),
    "dice": (lambda x: optax.losses.dice_loss(x, ONE_HOT), [X]),
    "safe_norm": (lambda x: optax.safe_norm(x, 1e-3), [X]),
}
linalg = jnp.linalg
LINEAR_ALGEBRA = {
    "cholesky": (lambda a: linalg.cholesky(_safe(a)), [A]),
    "cond": (lambda a: linalg.cond(_safe(a)), [A]),
    "det": (linalg.det, [A]),
    "slogdet": (lambda a: linalg.slogdet(a)[1], [A]),
    "inv": (linalg.inv, [A]),
    "pinv": (linalg.pinv, [Arg((4, 3))]),
    "solve": (linalg.solve, [A, V]),
    "lstsq": (lambda a, b: linalg.lstsq(a, b)[0], [Arg((5, 3)), Arg((5,))]),
    "matrix_power": (lambda a: linalg.matrix_power(a, 3), [A]),
    "norm": (linalg.norm, [X]),
    "nuclear": (lambda a: linalg.norm(a, "nuc"), [A]),
    "norm_1": (lambda a: linalg.norm(a, 1), [A]),
    "multi_dot": (lambda a, b, c: linalg.multi_dot([a, b, c]), [A, X, Arg((5, 2))]),
    "eigvalsh": (lambda a: linalg.eigvalsh(_safe(a)), [A]),
    "svdvals": (linalg.svdvals, [X]),
    "qr": (lambda a: linalg.qr(a)[1], [Arg((5, 3))]),
    "expm": (jsp.linalg.expm, [Arg((3, 3))]),
    "cho_solve": (lambda a, b: jsp.linalg.cho_solve(jsp.linalg.cho_factor(_safe(a)), b), [A, V]),
    "lu_solve": (lambda a, b: jsp.linalg.lu_solve(jsp.linalg.lu_factor(a), b), [A, V]),
    "solve_triangular": (lambda a, b: jsp.linalg.solve_triangular(a + 3 * jnp.eye(4), b, lower=True), [A, V]),
    "cross": (jnp.cross, [Arg((4, 3)), Arg((4, 3))]),
    "kron": (jnp.kron, [Arg((2, 3)), Arg((3, 2))]),
    "einsum": (lambda a, b: jnp.einsum("ij,kj->ik", a, b), [X, Y]),
    "tensordot": (lambda a, b: jnp.tensordot(a, b, 2), [X, Y]),
    "cg": (lambda a, b: jsp.sparse.linalg.cg(_safe(a), b, tol=1e-14)[0], [A, V]),
}
ARRAYS = {
    "var": (lambda x: jnp.var(x, axis=0), [X]),
    "std": (jnp.std, [X]),
    "median": (lambda x: jnp.median(x, axis=1), [X]),
    "quantile": (lambda x: jnp.quantile(x, 0.3), [X]),
    "corrcoef": (jnp.corrcoef, [X]),
    "interp": (lambda x, f: jnp.interp(x, jnp.linspace(0, 1, 5, dtype=x.dtype), f), [Arg((4,), 0.0, 1.0), Arg((5,))]),
    "convolve": (jnp.convolve, [Arg((6,)), Arg((3,))]),
    "gradient": (jnp.gradient, [Arg((6,))]),
    "trapezoid": (jnp.trapezoid, [X]),
    "logaddexp": (jnp.logaddexp, [X, Y]),
    "hypot": (jnp.hypot, [X, Y]),
    "sinc": (jnp.sinc, [X]),
    "unwrap": (lambda x: jnp.unwrap(3 * x), [X]),
    "roll": (lambda x: jnp.roll(x, 2, 1) * x, [X]),
    "tril": (jnp.tril, [A]),
    "cumulative_product": (lambda x: jnp.cumprod(x, 1), [X]),
    "argsort": (lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1) ** 2 * jnp.arange(5.0), [X]),
    "segment_sum": (lambda x: jax.ops.segment_sum(x, LABELS % 2, 2) ** 2, [X]),
    "segment_max": (lambda x: jax.ops.segment_max(x, LABELS % 2, 2), [X]),
    "resize": (lambda x: jax.image.resize(x, (7, 3), "bilinear"), [X]),
    "resize_cubic": (lambda x: jax.image.resize(x, (2, 8), "cubic"), [X]),
    "map_coordinates": (lambda x, c: jsp.ndimage.map_coordinates(x, [c, c], 1), [X, Arg((6,), 0.2, 2.8)]),
    "convolve2d": (jsp.signal.convolve2d, [X, Arg((2, 2))]),
    "fftconvolve": (jsp.signal.fftconvolve, [Arg((6,)), Arg((3,))]),
    "stft": (lambda x: jnp.abs(jsp.signal.stft(x, nperseg=8)[2]), [Arg((32,))]),
    "dct": (jsp.fft.dct, [X]),
    "odeint": (
        lambda y, k: jax.experimental.ode.odeint(lambda y, t, k: -k * y, y, jnp.array([0.0, 0.5, 1.0], y.dtype), k),
        [Arg((2,), 0.5, 1.0), Arg((), 0.5, 1.0)],
    ),
    "associative_scan": (lambda x: jax.lax.associative_scan(jnp.multiply, x), [X]),
    "map": (lambda x: jax.lax.map(jnp.sin, x), [X]),
    "hessian": (lambda x: jax.hessian(lambda x: jnp.sum(jnp.sin(x) ** 3))(x), [Arg((3,))]),
    "gumbel": (lambda x: jax.random.gumbel(jax.random.key(0), x.shape, x.dtype) * x, [X]),
    "random_loggamma": (lambda a: jax.random.loggamma(jax.random.key(0), a, dtype=a.dtype), [Arg((4,), 1.0, 3.0)]),
    "random_gamma": (lambda a: jax.random.gamma(jax.random.key(0), a, dtype=a.dtype), [Arg((4,), 1.0, 3.0)]),
}
FUNCTIONS = {
    f"{family}-{name}": row
    for family, table in (
        ("special", SPECIAL),
        ("stats", STATS),
        ("nn", NETWORKS),
        ("optax", LOSSES),
        ("linalg", LINEAR_ALGEBRA),
        ("numpy", ARRAYS),
    )
    for name, row in table.items()
}
