import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES

import fbp
from fbp.errors import FbpError
from fbp.losses import SoftmaxCrossEntropy
from fbp.networks import mlp
from fbp.precision import cast
from fbp.training import find_decayed, initial_state, optimizer, schedule, train_step
from fbp.training.optimizers import constructors
from fbp.tree import list_weights, map_layers, observe_layers

NET, CROSS_ENTROPY = mlp((6, 8, 3), "tanh"), SoftmaxCrossEntropy()
RISING = schedule("constant", 0.1, 10, warmup=5)
EVERYTHING = {"clip_norm": 1.0, "weight_decay": 0.1, "accumulate": 2}


def draw(tree, seed):
    """Random gradients, or parameters, of a tree's shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), tree)


def take_steps(rule, params, count, *, first=0):
    """The parameters after each of several steps with gradients that do not depend on them."""

    # optax mixes dtypes in its schedules.
    @jax.jit
    def step(params, state, gradient):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = rule.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

    state, passed = rule.init(params), []
    for i in range(first, first + count):
        params, state = step(params, state, draw(params, i))
        passed.append(params)
    return passed


def rates(rate, steps):
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.jit(jax.vmap(rate))(jnp.arange(steps)))


def test_optimizers_are_those_of_optax():
    names = constructors()
    assert {"sgd", "adam", "adamw", "lion", "rmsprop", "adafactor", "adadelta"} < set(names)
    assert not {"lbfgs", "polyak_sgd", "scale_by_rprop", "scale_by_learning_rate", "cosine_decay_schedule"} & set(names)
    params = {"W": jnp.ones((2, 3))}
    ours, theirs = optimizer("sgd", 0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)
    chex.assert_trees_all_equal(*(o.update(params, o.init(params), params) for o in (ours, theirs)))


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["alone", "with everything around it"])
@pytest.mark.parametrize("name", list(constructors()))
def test_every_optimizer_keeps_the_state_of_half_precision_networks(name, options):
    params = cast(NET.init(jax.random.key(0))[0], "bfloat16")
    takes_schedules = name not in ("optimistic_adam", "rprop", "sm3")
    rate = schedule("cosine", 0.01, 10, warmup=2) if options and takes_schedules else 0.01
    rule = optimizer(name, rate, **options, **({"key": 0} if name == "noisy_sgd" else {}))
    state = jax.eval_shape(lambda: initial_state(params, rule))
    step = train_step(NET, CROSS_ENTROPY, rule)
    after, _ = jax.eval_shape(step, state, jnp.ones((8, 6), jnp.bfloat16), jnp.zeros(8, jnp.int32))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("adm", 0.1), {}, "unknown optimizer 'adm': did you mean 'adam'"),
        (("lbfgs", 0.1), {}, "unknown optimizer 'lbfgs'"),
        (("adam", -0.1), {}, "the learning rate must be finite and at least 0, got -0.1"),
        (("adam", math.nan), {}, "got nan"),
        (("adam", "0.1"), {}, "got '0.1'"),
        (("adam", True), {}, "got True"),
        (("sgd", 0.1), {"momentun": 0.9}, "unknown option of optimizer 'sgd' 'momentun': did you mean 'momentum'"),
        (
            ("adam", 0.1),
            {"mu_dtype": "nope"},
            "options of optimizer 'adam' must be valid for optax.adam, got {'mu_dtype'",
        ),
        (("sm3", RISING), {}, "the learning rate of 'sm3' must be a number, got a schedule"),
        (("rprop", RISING), {}, "the learning rate of 'rprop' must be a number, got a schedule"),
        (("adam", 0.1), {"clip_norm": 0.0}, "clip_norm must be finite and positive, got 0.0"),
        (("adam", 0.1), {"clip_norm": math.inf}, "got inf"),
        (("adam", 0.1), {"weight_decay": -1}, "weight_decay must be finite and at least 0, got -1"),
        (("adam", 0.1), {"accumulate": 0}, "accumulate must be a positive integer, got 0"),
        (("adam", 0.1), {"accumulate": 2.5}, "accumulate must be a positive integer, got 2.5"),
    ],
)
def test_mistaken_optimizers_are_named(arguments, options, message):
    with pytest.raises(FbpError) as error:
        optimizer(*arguments, **options)
    assert message in str(error.value)


def test_what_decays_is_what_the_layers_call_weights_but_for_embeddings():
    seen = set()
    for case in CASES:
        shapes, _ = case.shapes
        declared = []

        def observe(layer, params, A, declared=declared):
            out, cache = layer.forward(params, A)
            weights = list_weights(layer, params, cache, out)
            declared.extend((layer, name, name in weights and name != "E") for name in params)
            return out, ()

        jax.eval_shape(lambda *args, net=case.net: observe_layers(net, observe, *args), *case.batch()[:2])
        found = []
        map_layers(
            lambda layer, decays, found=found: found.extend((layer, *each) for each in dict(decays).items()),
            case.net,
            find_decayed(shapes),
        )
        assert set(found) == set(declared), case
        seen |= {name for _, name, _ in found}
    assert seen == {"W", "b", "gamma", "beta", "scale", "shift", "D", "U", "E", "P"}


def test_of_own_layers_matrices_decay():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((4, 3)), "s": jnp.ones(())}, jnp.ones((2, 2)), None
    assert find_decayed(params) == ({"kernel": True, "bias": False, "s": False}, True, None)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "lamb", "adadelta", "adafactor", "novograd"])
def test_weight_decay_leaves_biases_gains_embeddings_and_positions(name, x64):
    params = draw(fbp.gpt(7, 5, 8, 2, 2).init(jax.random.key(0))[0], 0)
    (with_decay,), (without,) = (take_steps(optimizer(name, 0.1, weight_decay=d), params, 1) for d in (0.5, 0.0))
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), with_decay, without)
    assert changed == find_decayed(params)
    assert changed["blocks"]["q"] == {"W": True, "b": False}


@pytest.mark.parametrize("style", ["gpt2", "modern"])
@pytest.mark.parametrize(
    # Not one of ours, which are computed in float32.
    "rate",
    [0.01, lambda step: 0.01 / (1 + jnp.asarray(step, float))],
    ids=["constant", "falling"],
)
def test_decay_beside_adam_is_adamw(style, rate, x64):
    params = draw(fbp.gpt(7, 5, 8, 2, 2, style=style).init(jax.random.key(0))[0], 0)
    beside = take_steps(optimizer("adam", rate, weight_decay=0.3), params, 5)
    mask = jax.tree.map_with_path(lambda path, _: path[-1].key == "W", params)
    theirs = take_steps(optax.adamw(rate, weight_decay=0.3, mask=mask), params, 5)
    chex.assert_trees_all_close(beside, theirs, rtol=1e-13, atol=1e-14)
    chex.assert_trees_all_equal(take_steps(optimizer("adamw", rate, weight_decay=0.3), params, 5), theirs)


def test_decay_is_the_optimizers_own_where_none_is_asked_for():
    params = draw(NET.init(jax.random.key(0))[0], 0)
    theirs = optax.adamw(0.1, mask=find_decayed)
    chex.assert_trees_all_equal(take_steps(optimizer("adamw", 0.1), params, 2), take_steps(theirs, params, 2))


def test_a_mask_of_ones_own_says_what_decays():
    params = {"W": jnp.ones((2, 2)), "b": jnp.ones(2)}
    mask = {"W": False, "b": True}
    for name in ("sgd", "adamw"):
        first, second = (take_steps(optimizer(name, 0.1, weight_decay=d, mask=mask), params, 1) for d in (0.5, 0.0))
        assert jax.tree.map(lambda x, y: bool((x != y).any()), first[0], second[0]) == mask


def test_gradients_are_clipped_by_their_norm_over_all_parameters(x64):
    gradient = {"W": jnp.full((3, 3), 4.0), "b": jnp.full(7, 8.0)}
    norm = (9 * 16 + 7 * 64) ** 0.5
    for clip_norm, scale in ((1.0, 1 / norm), (2 * norm, 1.0)):
        rule = optimizer("sgd", 1.0, clip_norm=clip_norm)
        updates, _ = rule.update(gradient, rule.init(gradient), gradient)
        chex.assert_trees_all_close(updates, jax.tree.map(lambda g, scale=scale: -scale * g, gradient), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_large_gradients_in_half_precision_are_clipped_not_lost(dtype):
    gradient = {"W": jnp.full((100, 100), 10.0, dtype)}
    rule = optimizer("sgd", 1.0, clip_norm=1.0)
    updates, _ = rule.update(gradient, rule.init(gradient), gradient)
    assert updates["W"].dtype == dtype
    np.testing.assert_allclose(np.asarray(updates["W"], np.float32), -0.01, rtol=1e-2)


def test_accumulated_steps_are_one_step_of_the_whole_batch(x64):
    rng = np.random.default_rng(0)
    X, Y = jnp.asarray(rng.standard_normal((24, 6))), jnp.asarray(rng.integers(0, 3, 24))
    params, _ = NET.init(jax.random.key(0))
    options = {"clip_norm": 0.1, "weight_decay": 0.1}
    # The schedule counts the steps of training: of four that make an update, the first gives the rate.
    whole = optimizer("adam", schedule("linear", 0.1, 3), **options)
    parts = optimizer("adam", schedule("linear", 0.1, 12), accumulate=4, **options)
    one, many = initial_state(params, whole), initial_state(params, parts)
    of_whole, of_parts = (jax.jit(train_step(NET, CROSS_ENTROPY, rule)) for rule in (whole, parts))
    for _ in range(3):
        before = many.params
        one, _ = of_whole(one, X, Y)
        for k in range(4):
            chex.assert_trees_all_equal(many.params, before)
            many, _ = of_parts(many, X[6 * k : 6 * k + 6], Y[6 * k : 6 * k + 6])
        chex.assert_trees_all_close(many.params, one.params, rtol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "adafactor", "lamb"])
def test_frozen_parts_may_be_none(name):
    params = draw(NET.init(jax.random.key(0))[0], 0)
    rule = optimizer(name, schedule("cosine", 0.1, 8), **EVERYTHING)
    # With the first layer alone, the draws are those of the first layer of both.
    whole, frozen = take_steps(rule, (params[0],), 3), take_steps(rule, (params[0], None, {"W": None}), 3)
    assert frozen[-1][1:] == (None, {"W": None})
    chex.assert_trees_all_equal([each[0] for each in frozen], [each[0] for each in whole])


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "adafactor"])
def test_stacked_runs_are_the_single_ones(name, x64):
    rule = optimizer(name, schedule("one_cycle", 0.1, 8, warmup=2), **EVERYTHING)
    starts = [draw(NET.init(jax.random.key(0))[0], seed) for seed in range(3)]
    gradients = [[draw(start, 10 * i + t) for t in range(3)] for i, start in enumerate(starts)]

    def run(params, gradients):
        state = rule.init(params)
        for gradient in gradients:
            with jax.numpy_dtype_promotion("standard"):
                updates, state = rule.update(gradient, state, params)
                params = optax.apply_updates(params, updates)
        return params

    stack = lambda trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
    together = jax.jit(jax.vmap(run))(stack(starts), stack(gradients))
    chex.assert_trees_all_close(together, stack([jax.jit(run)(*each) for each in zip(starts, gradients, strict=True)]))


def test_a_cosine_schedule_ends_at_rest():
    rule = optimizer("sgd", schedule("cosine", 0.5, 4))
    state = rule.init(jnp.zeros(1))
    updates = []
    for _ in range(5):
        with jax.numpy_dtype_promotion("standard"):
            update, state = rule.update(jnp.ones(1), state)
        updates.append(float(update[0]))
    np.testing.assert_allclose(updates, [-0.5, -0.4267767, -0.25, -0.0732233, 0.0], atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("constant", {}, lambda n: optax.constant_schedule(0.2)),
        ("linear", {}, lambda n: lambda t: np.interp(t, [0, n], [0.2, 0.0])),
        ("linear", {"end": 0.05}, lambda n: lambda t: np.interp(t, [0, n], [0.2, 0.05])),
        ("cosine", {}, lambda n: lambda t: 0.1 * (1 + np.cos(np.pi * min(t / n, 1)))),
        ("cosine", {"end": 0.02}, lambda n: optax.cosine_decay_schedule(0.2, n, 0.1)),
        ("one_cycle", {"end": 0.008 / 100}, lambda n: optax.cosine_onecycle_schedule(n, 0.2, final_div_factor=100)),
        (
            "one_cycle",
            {"end": 0.008 / 5, "rise": 0.5},
            lambda n: optax.cosine_onecycle_schedule(n, 0.2, 0.5, final_div_factor=5),
        ),
        ("step", {"every": 7}, lambda n: lambda t: 0.2 * 0.1 ** (t // 7)),
        ("step", {"every": 49, "factor": 0.5, "end": 0.06}, lambda n: lambda t: max(0.2 * 0.5 ** (t // 49), 0.06)),
    ],
)
def test_schedules_are_what_their_names_say(name, options, theirs, warmup):
    steps = 110
    found = rates(schedule(name, 0.2, steps, warmup=warmup, **options), steps + 20)
    behind = theirs(steps - warmup)
    with jax.numpy_dtype_promotion("standard"):
        expected = [float(behind(t)) for t in range(steps + 20 - warmup)]
    np.testing.assert_allclose(found[warmup:], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[:warmup], expected[0] * np.arange(1, warmup + 1) / (warmup + 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "one_cycle", "step"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("peak", [0.0, 0.5])
def test_short_and_resting_schedules_are_finite(name, steps, peak):
    options = {"every": 1} if name == "step" else {}
    found = rates(schedule(name, peak, steps, warmup=steps - 1, **options), steps + 2)
    assert np.all((found >= 0) & (found <= peak + 1e-7))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cosin", 0.1, 5), {}, "unknown schedule 'cosin': did you mean 'cosine'"),
        (("cosine", -0.1, 5), {}, "the learning rate must be finite and at least 0, got -0.1"),
        (("cosine", 0.1, 0), {}, "steps of a schedule must be a positive integer, got 0"),
        (("cosine", 0.1, 2.5), {}, "steps of a schedule must be a positive integer, got 2.5"),
        (("linear", 0.1, 2**31), {}, "steps of a schedule must be at most 2147483647, got 2147483648"),
        (("linear", 0.1, 5), {"warmup": 5}, "warmup must be of fewer than the 5 steps of training, got 5"),
        (("linear", 0.1, 5), {"warmup": -1}, "warmup must be a positive integer, got -1"),
        (("linear", 0.1, 5), {"end": 0.2}, "end of a schedule must be from 0 to the learning rate 0.1, got 0.2"),
        (("cosine", 0.1, 5), {"end": math.nan}, "got nan"),
        (("constant", 0.1, 5), {"end": 0.1}, "unknown option of schedule 'constant' 'end'"),
        (("cosine", 0.1, 5), {"every": 2}, "unknown option of schedule 'cosine' 'every'"),
        (("one_cycle", 0.1, 5), {"rise": 1.0}, "rise of the schedule 'one_cycle' must be between 0 and 1, got 1.0"),
        (("step", 0.1, 5), {}, "every must be given with the schedule 'step'"),
        (("step", 0.1, 5), {"every": 0}, "every of the schedule 'step' must be a positive integer, got 0"),
        (("step", 0.1, 5), {"every": 2, "factor": 1.5}, "factor of the schedule 'step' must be between 0 and 1"),
    ],
)
def test_mistaken_schedules_are_named(arguments, options, message):
    with pytest.raises(FbpError) as error:
        schedule(*arguments, **options)
    assert message in str(error.value)
