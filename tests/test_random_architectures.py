"""Random stacks of layers: whatever is composed, the gradient equals that of `jax.grad`."""

from functools import partial

import jax
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fbp
from fbp import Activation, Affine, BatchNorm, Checkpoint, Dense, Dropout, LayerNorm, Repeat, Residual, RMSNorm, Serial
from fbp.verify import differences

M, N_IN = 5, 4
LOSSES = (fbp.SoftmaxCrossEntropy(), fbp.SigmoidBinaryCrossEntropy("sum"), fbp.HalfSquaredError(activation="tanh"))

widths = st.integers(1, 6)
smooth = st.sampled_from(["tanh", "sigmoid", "gelu", "silu", "softplus", "elu(0.5)", "relu", "leaky_relu(0.2)", "erf"])
# eps as large as this keeps the normalization of a single unit, or of two examples, well conditioned.
norms = st.sampled_from([BatchNorm(0.1), LayerNorm(0.1), RMSNorm(0.1)])
keeping = st.one_of(st.builds(Activation, smooth), norms, st.just(Dropout(0.3)), st.just(Affine()))


def keeping_width(width: int) -> st.SearchStrategy:
    """Blocks of inputs and outputs of one width, nested up to twice."""
    dense = st.just(Dense(width, "glorot_normal"))

    def nested(inside):
        stack = st.lists(inside, min_size=2, max_size=3).map(lambda layers: Serial(*layers))
        return st.one_of(
            stack,
            st.builds(Residual, stack, st.sampled_from([1.0, 0.5])),
            st.builds(Repeat, stack, st.integers(1, 3), st.sampled_from([None, 1, 2])),
            st.builds(Checkpoint, stack),
        )

    return st.recursive(st.one_of(keeping, dense), nested, max_leaves=5)


@st.composite
def architectures(draw):
    layers = []
    for width in draw(st.lists(widths, max_size=3)):
        layers += [Dense(width, "glorot_normal"), draw(keeping_width(width))]
    return Serial(*layers, Dense(3))


@given(net=architectures(), loss=st.sampled_from(LOSSES), seed=st.integers(0, 2**16))
# Without shrinking: every step of it would compile two more programs.
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_random_architecture_equals_autodiff(net, loss, seed):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(M, N_IN))
    Y = np.arange(M) % 3 if isinstance(loss, fbp.SoftmaxCrossEntropy) else np.eye(3)[np.arange(M) % 3]
    key = jax.random.key(seed)
    shapes = jax.eval_shape(lambda key: net.init(key, (N_IN,))[0], key)
    params = jax.tree.map(lambda p: 0.2 + draw.normal(size=p.shape) / p.shape[0] ** 0.5, shapes)
    with jax.enable_x64(True):
        autodiff = jax.value_and_grad(partial(fbp.loss_value, net, loss))
        both = jax.jit(lambda *batch: (fbp.value_and_grad(net, loss)(*batch), autodiff(*batch)))
        (value, found), (expected_value, expected) = jax.device_get(both(params, X, Y, np.ones(M), key))
    whole = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(expected)) ** 0.5
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, params)
    assert abs(value - expected_value) <= 1e-13 * abs(expected_value)
    for leaf in differences(found, expected):
        assert leaf.error <= 1e-11 * leaf.norm_ref + 1e-14 * whole, leaf
