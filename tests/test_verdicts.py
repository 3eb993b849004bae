"""Verdicts: the word agrees with its number, whatever the curve, and advice improves what is measured."""

import math
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fbp
from fbp.activations import activation
from fbp.errors import FbpError
from fbp.flow import Plan, diagnose, grid, judge_rate, measure, verdict
from fbp.flow.prediction import Prediction
from fbp.theory import mean_field

WORDS = {"vanishing": "vanish", "stable": "keep their size", "exploding": "explode", "undecided": "undecided"}


def check(kind, low, rate, high, steps, networks):
    """What a word promises of a factor of ||dZ|| a layer."""
    decades = abs(math.log10(rate)) if rate > 0 else math.inf
    level = decades * 100 < 1 and decades * steps < 1
    if networks == 1:
        assert kind == ("stable" if level else "vanishing" if rate < 1 else "exploding")
    elif kind == "vanishing":
        assert (rate < 1 and high < 1 and not level) or rate == 0
    elif kind == "exploding":
        assert rate > 1
        assert low > 1
        assert not level
    else:
        assert low <= 1 <= high or level
        assert (kind == "stable") == all(x > 0 and abs(math.log10(x)) * max(steps, 20) < 1 for x in (low, high))


def number_of(text, pattern):
    return float(re.search(pattern, text)[1])


@st.composite
def curves(draw):
    """Straight and crooked ones, at every depth, alike and not alike between networks."""
    networks, layers = draw(st.sampled_from((1, 2, 5, 20))), draw(st.sampled_from((2, 3, 10, 100, 999)))
    rate = draw(st.one_of(st.floats(-3, 3), st.floats(-0.03, 0.03), st.floats(-1e-4, 1e-4)))
    between, within = (10.0 ** draw(st.floats(-6, 0)) for _ in range(2))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    slopes = rate + between * random.standard_normal((networks, 1))
    return slopes * np.arange(layers)[::-1] + within * random.standard_normal((networks, layers))


@given(curves())
@settings(max_examples=500, deadline=None)
def test_a_word_agrees_with_its_number(log10):
    networks, layers = log10.shape
    found, whole = verdict(log10), diagnose(log10, None)
    check(found.kind, found.low, found.rate, found.high, layers - 1, networks)
    check(whole.kind, *(math.sqrt(x) for x in (whole.low, whole.rate, whole.high)), layers - 1, networks)
    assert found.decades == pytest.approx((layers - 1) * math.log10(found.rate), rel=1e-6, abs=1e-6)
    for kind, text, pattern in (
        (found.kind, str(found), r"×(\S+)"),
        (whole.kind, str(whole), r"‖dZ‖² ×(\S+)"),
    ):
        said = number_of(text, pattern)
        assert {"vanishing": said < 1, "exploding": said > 1}.get(kind, True), text
        assert text.startswith((kind, "gradients " + WORDS[kind], WORDS[kind])), text
    assert ("half-depth" in str(whole)) <= (whole.kind == "vanishing")
    assert ("doubling depth" in str(whole)) <= (whole.kind == "exploding")
    if "half-depth" in str(whole) or "doubling depth" in str(whole):
        layers_said = number_of(str(whole), r"(?:half-|doubling )depth (\S+) layers")
        assert layers_said == pytest.approx(math.log(2) / abs(math.log(whole.rate)), abs=0.051)


@pytest.mark.parametrize("networks", [1, 8])
@pytest.mark.parametrize(
    ("squared_rate", "layers", "kind"),
    [
        (63.674, 2, "exploding"),
        (0.5, 4, "vanishing"),
        (1.489, 4, "exploding"),
        (1.075, 30, "exploding"),
        (1.0, 2, "stable"),
        (1.006, 30, "stable"),
        (1.006, 999, "exploding"),
        (0.986, 30, "stable"),
        (0.986, 999, "vanishing"),
    ],
)
def test_rates_that_readers_disputed(squared_rate, layers, kind, networks):
    jitter = 1e-4 * np.random.default_rng(0).standard_normal((networks, 1))
    log10 = (0.5 * math.log10(squared_rate) + jitter) * np.arange(layers)[::-1]
    assert verdict(log10).kind == diagnose(log10, None).kind == kind


@pytest.mark.parametrize(
    ("interval", "steps", "kind"),
    [
        ((0.90, 0.96, 1.03), 3, "stable"),
        ((0.80, 0.96, 1.03), 3, "undecided"),
        ((0.2, 0.5, 1.3), 1, "undecided"),
        ((0.97, 0.99, 1.01), 50, "stable"),
        ((0.97, 0.99, 1.01), 200, "undecided"),
        ((0.985, 0.99, 0.995), 50, "stable"),
        ((0.985, 0.99, 0.995), 300, "vanishing"),
        ((0.0, 0.0, 0.0), 3, "vanishing"),
        ((math.nan, math.nan, math.nan), 3, "undecided"),
    ],
)
def test_words_by_interval_and_depth(interval, steps, kind):
    assert judge_rate(*interval, steps) == kind


def test_a_mean_and_a_typical_network_may_differ():
    """Narrow and deep: the mean of ||dZ||^2 stays, a typical network's vanishes; Hanin & Nica (2018)."""
    random = np.random.default_rng(0)
    steps = 0.5 * math.log10(math.e) * (0.3 * random.standard_normal((40, 400)) - 0.045)
    found = diagnose(np.cumsum(steps, axis=1)[:, ::-1], None)
    assert (found.kind, found.verdict.kind) == ("stable", "vanishing")
    assert re.search(
        r"keep their size over 400 layers, .*, in a typical network ‖dZ‖ ×0\.9\d+ a layer: vanish", str(found)
    )


def test_networks_without_a_gradient_are_counted():
    log10 = np.linspace(0.001, 0, 9) + np.zeros((8, 1))
    log10[0, :4] = -np.inf
    found = verdict(log10)
    assert (found.kind, found.silent) == ("stable", 1)
    assert str(found).endswith("no gradient in 1 of 8 networks")
    assert "no gradient in 1 of 8 networks" in str(diagnose(log10, None))
    log10[:5, 0] = -np.inf
    assert (verdict(log10).kind, verdict(log10).rate) == ("vanishing", 0.0)


def test_a_phase_is_theorys_word_and_no_verdict():
    flow = grid(Plan((30,), ("scaled_tanh", "tanh"), ("mean_field(1.0)",), width=64, seeds=6, examples=4))
    for cell in flow:
        said = str(flow[cell].diagnosis())
        assert re.match(r"gradients (vanish|keep their size over 30 layers|explode), ‖dZ‖² ×", said)
        assert re.search(r"\(theory [\d.]+,.* phase\)", said)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in activation if activation(name).elementwise])
def test_advice_improves_what_is_measured(name):
    """For every activation, from sigmas on both sides: measure, follow the advice, measure again."""
    jax.config.update("jax_disable_most_optimizations", False)
    net = fbp.mlp((96,) * 31, name, "mean_field(1)", repeat=True)
    sigmas = (0.3, 0.7, 1.0, 1.5, 3.0)
    before = measure(net, seeds=6, scales=sigmas)
    found = [before.diagnosis(i) for i in range(len(sigmas))]
    advised = {i: d.advice for i, d in enumerate(found) if d.advice is not None}
    after = measure(net, seeds=6, scales=advised.values()) if advised else None
    for place, i in enumerate(advised):
        better = after.diagnosis(place)
        assert abs(math.log(better.rate)) < abs(math.log(found[i].rate)), (sigmas[i], str(found[i]), str(better))
    for d in found:
        assert ("use σ_w²" in str(d)) == (d.advice is not None)
        assert d.advice is None or d.kind in ("vanishing", "exploding")


def test_known_bad_advice_is_not_given():
    net = {"selu": 1.0, "scaled_tanh": 1.0, "erf": 1.0}
    for name, sigma in net.items():
        flow = measure(fbp.mlp((96,) * 31, name, f"mean_field({sigma})", repeat=True), seeds=6)
        assert "use" not in str(flow.diagnosis())
    sick = measure(fbp.mlp((96,) * 31, "relu", "mean_field(1)", repeat=True), seeds=6).diagnosis()
    assert str(sick).endswith("use σ_w² = 2.00")


def test_networks_that_leave_the_range_of_their_numbers_are_counted():
    """Behind an infinite pre-activation relu's slope is 0: no gradient comes, in a network whose gradients explode."""
    log10 = np.linspace(0.001, 0, 9) + np.zeros((8, 1))
    log10[0, 4] = np.nan
    found = verdict(log10)
    assert (found.kind, found.infinite, found.silent) == ("stable", 1, 0)
    assert str(diagnose(log10, None)).endswith("; infinite or NaN values in 1 of 8 networks")
    log10[1:4, 0] = -np.inf
    assert (verdict(log10).kind, verdict(log10).infinite, verdict(log10).silent) == ("undecided", 1, 3)
    for net in (fbp.mlp((16,) * 81, "relu", "mean_field(20,0.1)"), fbp.mlp((16,) * 81, "gelu", "mean_field(20)")):
        found = measure(net, seeds=3).diagnosis()
        assert (found.kind, found.verdict.infinite, found.agrees) == ("undecided", 3, None)
        assert str(found) == "undecided (theory 200); infinite or NaN values in 3 of 3 networks"
        assert str(found.verdict) == "undecided; infinite or NaN values in 3 of 3 networks"
    flows = grid(Plan((20, 80), ("relu",), ("mean_field(20,0.1)",), width=16, seeds=3, examples=4))
    assert [flow.verdict().kind for flow in flows.values()] == ["exploding", "undecided"]


def test_inputs_are_finite():
    for more in ({}, {"loss": fbp.HalfSquaredError(), "Y": np.ones((2, 8), np.float32)}):
        with pytest.raises(FbpError, match="X must be finite"):
            measure(fbp.mlp((8,) * 4), X=np.full((2, 8), np.nan, np.float32), seeds=2, **more)


def test_critical_layers_that_are_dead_or_narrow_get_no_advice():
    """Theory's sigma_w is the one that they have."""
    dead = measure(fbp.mlp((3,) * 101, "relu", repeat=True), seeds=6).diagnosis()
    narrow = diagnose(np.linspace(-9, 0, 100)[None], Prediction(mean_field("relu", 2**0.5), np.ones(99)))
    for found in (dead, narrow):
        assert (found.kind, found.phase, found.advice) == ("vanishing", "critical", None)


def test_small_advice_keeps_its_digits():
    steep = measure(fbp.mlp((32,) * 9, "scaled_tanh(10,5)", "lecun_normal"), seeds=4).diagnosis()
    assert str(steep).endswith("use σ_w² = 0.000400")


def test_stable_layers_are_told_from_the_phase_of_deep_ones():
    found = measure(fbp.mlp((32,) * 4, "relu", "orthogonal(1.4)"), seeds=5).diagnosis()
    assert found.kind == "stable"
    assert "(theory 0.980, with depth 0.980: ordered phase)" in str(found)


def test_a_step_that_makes_most_of_the_change_is_told_apart():
    """Level but for one step by 100 in ||dZ||: the rate is a mean, and the sentence says of what."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (5, 11))
    curves = np.r_[[2.0] * 4, [0.0] * 7] + noise
    found = diagnose(curves, None, first=3)
    assert found.kind == "exploding"
    assert found.jump == pytest.approx((7, 1.0, 1e4, 1.0), rel=0.02)
    sentence = str(found)
    assert sentence.startswith("gradients explode by one step, ‖dZ‖² ×2.5")
    assert found.word == "exploding by one step"
    assert "100% of that in one step, 7 to 6 (×1e+04; ×1 elsewhere)" in sentence
    assert "doubling depth" not in sentence
    # Equal steps, two steps, and a level curve have none.
    assert diagnose(np.linspace(2, 0, 11) + noise, None).jump is None
    assert diagnose(curves[:, 3:6], None).jump is None
    # The others grow, too: no word of one step.
    steep = diagnose(curves + np.linspace(1, 0, 11), None)
    assert (steep.word, steep.jump.elsewhere) == ("exploding", pytest.approx(10**0.2, rel=0.01))
    assert diagnose(0 * curves + noise, None).jump is None


def test_no_gradient_has_no_interval():
    silent = np.array([[-np.inf, -3.0, 0.0]] * 4)
    assert str(verdict(silent)) == "vanishing; no gradient in 4 of 4 networks"
    assert str(diagnose(silent, None)) == "gradients vanish, ‖dZ‖² ×0 a layer; no gradient in 4 of 4 networks"
