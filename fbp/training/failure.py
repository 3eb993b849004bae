"""A step that went wrong: which one, in which layer and equation, with all that repeats it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fbp.backprop import forward_to_loss, name_of
from fbp.cotangent import Cotangent
from fbp.errors import FbpError, Status
from fbp.losses import Loss
from fbp.precision import cast
from fbp.training.feed import Block
from fbp.training.inputs import to_floats
from fbp.training.loop import Taken, run_steps
from fbp.training.replay import Problem
from fbp.training.results import Fitted
from fbp.training.step import Method, State
from fbp.tree import instrument, map_layers, name_layers, run_instrumented, unstack
from fbp.typing import Activations, Cache, Key, Layer, Params, Targets, Visit, Weights, Wrapper

if TYPE_CHECKING:
    from fbp.training.run import Run

SUSPICIOUS = 1024
"""The relative difference of two gradients, in units of the last place, from which the judges are asked."""


class Diverged(FbpError):
    """The loss, a gradient or a parameter became infinite or NaN, and training stopped before that step.

    Attributes:
        state: before the step, with the last good parameters.
        fitted: the parameters and the history up to there.
        replay: the file that repeats the step; None without a run folder.
    """

    exit_status = Status.DIVERGED
    state: State
    fitted: Fitted
    replay: Path | None = None


class Disagreed(FbpError):
    """The hand-written and the automatic gradient of a step are not the same.

    Attributes:
        state: before the step.
        replay: the file that repeats the step; None without a run folder.
    """

    exit_status = Status.FAILED
    state: State
    replay: Path | None = None


def check_steps(
    method: Method,
    before: State,
    block: Block,
    first: int,
    count: int,
    taken: Taken,
    steps_before: int,
    run: "Run | None",
) -> None:
    """Raise an error if something became infinite or NaN in some steps, or the two gradients disagree.

    The steps are taken again up to the one that failed; their bits are the same.

    Args:
        method: how a step computes.
        before: the state before the first of them.
        block: the data.
        first: the first step in the block.
        count: how many.
        taken: what they measured.
        steps_before: the number of steps taken before them.
        run: keeps a replay file.

    Raises:
        Diverged: see there.
        Disagreed: see there.
    """
    finite = np.isfinite(taken.metrics.loss)
    if taken.finite.all() and finite.all():
        if taken.metrics.disagreement is not None:
            _check_agreement(method, before, block, first, np.asarray(taken.metrics.disagreement), steps_before, run)
        return
    # Bits do not depend on where chunks end: the steps before the first bad one are found by taking them again.
    low, high = 0, count if finite.all() else int(np.argmin(finite))
    while low < high:
        middle = (low + high + 1) // 2
        _, again = run_steps(method, None, before, block, first, middle)
        low, high = (middle, high) if again.finite.all() else (low, middle - 1)
    state, problem = _before(method, before, block, first, low)
    where, step = find_nonfinite(problem), steps_before + low + 1
    replay = None if run is None else run.keep(problem, step, f"{where} had infinite or NaN values")
    error = Diverged(
        f"training must stay finite, got {where} with infinite or NaN values in step {step}"
        f"{_advise(replay)}; use a smaller learning rate, clip the gradient, or scale the inputs"
    )
    error.state, error.replay = state, replay
    raise error


def find_nonfinite(problem: Problem) -> str:
    """The first thing that is not finite in a step, in the order in which they are computed.

    Args:
        problem: the step.

    Returns:
        Such as "the output of [2] (Dense)", "dW of blocks[3].q (Dense)", or "the update of the optimizer".
    """
    net = problem.net
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(problem.X)) if x.dtype.kind == "f"):
        return "the inputs"
    forward, loss, dZ, backward = jax.device_get(_inspect(*problem[2:], net=net, loss=problem.loss))
    outputs, visits = list(unstack(net, forward)), list(unstack(net, backward))
    names = [f"{path} ({type(layer).__name__})" for path, (layer, _) in zip(name_layers(net), outputs, strict=True)]
    for name, (_, is_finite) in zip(names, outputs, strict=True):
        if not is_finite:
            return f"the output of {name}"
    if not loss:
        return "the loss"
    if not dZ:
        return "dZ, the gradient of the loss with respect to the output"
    for name, (_, seen) in reversed(list(zip(names, visits, strict=True))):
        for equation, is_finite in seen.items():
            if not is_finite:
                return f"{equation} of {name}"
    return "the update of the optimizer"


@jax.jit(static_argnames=("net", "loss"))
def _inspect(
    params: Params, X: Activations, Y: Targets, weights: Weights, key: Key, *, net: Layer, loss: Loss
) -> tuple[Any, Array, Array, Any]:
    _, seen = run_instrumented(instrument(net, _Watched), params, X, key)
    forward = map_layers(lambda layer, cache: cache[1], net, seen)
    _, cache, value, dZ = forward_to_loss(net, loss, params, X, Y, weights, key)
    _, _, backward = net.sweep(params, cache, Cotangent(dZ), _look)
    return forward, _is_finite(value), _is_finite(dZ), backward


@dataclass(frozen=True)
class _Watched(Wrapper):
    """A layer that keeps whether its output is finite."""

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        out, cache = self.layer.forward(params, A, key)
        return out, (cache, _is_finite(out))


def _look(visit: Visit) -> dict[str, Array]:
    """Whether each gradient of a layer is finite, the parameters' first."""
    own = {f"d{name_of(path)}": _is_finite(d) for path, d in jax.tree.leaves_with_path(visit.d_params)}
    return own | {"dA": _is_finite(visit.dA_in)}


def _is_finite(tree: Any) -> Array:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.array(True)


def _check_agreement(
    method: Method, before: State, block: Block, first: int, found: np.ndarray, steps_before: int, run: "Run | None"
) -> None:
    # Imported by those who need it: it takes longer than the rest of training.
    from fbp.verify import compare

    limit = SUSPICIOUS * jnp.finfo(method.compute or jax.tree.leaves(before.params)[0].dtype).eps
    for i in np.flatnonzero(~(found <= limit)):
        state, problem = _before(method, before, block, first, int(i))
        verdict = compare(*problem, cost_seconds=0, graph=False)
        if verdict.exit_status == Status.FAILED:
            step = steps_before + int(i) + 1
            replay = None if run is None else run.keep(problem, step, "the two gradients disagree")
            error = Disagreed(
                f"the hand-written and the automatic gradient must agree, got a relative difference of {found[i]:.2g} "
                f"in step {step}{_advise(replay)}; mend the layer that the judges name"
            )
            error.state, error.replay = state, replay
            raise error


def _before(method: Method, before: State, block: Block, first: int, count: int) -> tuple[State, Problem]:
    """The state after so many steps, and the next step."""
    state, _ = run_steps(method, None, before, block, first, count)
    rows = block.rows[first + count]
    X, Y = jax.tree.map(lambda x: x[rows], (block.X, block.Y))
    weights = (np.arange(len(rows)) < block.counts[first + count]).astype(np.float32)
    params, X = state.params, to_floats(method.net, state.params, X)
    if method.compute is not None:
        params, X = cast((params, X), method.compute)
    key = jax.random.fold_in(state.key, state.step)
    return state, Problem(method.net, method.loss, params, X, Y, jnp.asarray(weights), key)


def _advise(replay: Path | None) -> str:
    return "" if replay is None else f" (fbp verify {replay} repeats it)"
