"""The rows of a conformance report: each measures one property of a gradient rule and says what it saw."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fbp.verify.conform.case import Case, Differs, Leaves, Unavailable, not_finite

Outcome = tuple[Literal["PASS", "NOTE"], str]


def eager(case: Case) -> Outcome:
    """The gradient outside of any transformation is finite."""
    gradient = case.eager.gradient
    if broken := not_finite(gradient):
        raise Differs(f"NaN or infinity in {broken[0]}; mask the rule's argument, not only its result, by jnp.where")
    return "PASS", f"{len(gradient)} {'leaf' if len(gradient) == 1 else 'leaves'}, finite"


def jit(case: Case) -> Outcome:
    """The compiled gradient is the eager one."""
    return _same(case.agree("under jit", jax.jit(case.gradient)(*case.point)))


def vmap(case: Case) -> Outcome:
    """The gradient of the batched operation, and a batch of cotangents, are stacks of single gradients."""
    batch, cotangents = _stack(case.members), _stack([case.cotangent(seed) for seed in range(3)])

    def singles(active: Leaves, cotangents: Leaves) -> Leaves:
        return _stack([case.gradient(_take(active, i), _take(cotangents, i)) for i in range(3)])

    def jacobian_rows(active: Leaves, cotangents: Leaves) -> Leaves:
        return _stack([case.gradient(active, _take(cotangents, i)) for i in range(3)])

    gradient = jax.vjp(jax.vmap(case.call), batch)[1](cotangents)[0]
    batched = case.agree("gradient of jax.vmap(op)", gradient, singles, batch, cotangents)
    gradient = jax.vmap(case.base.pullback)(cotangents)[0]
    rows = case.agree("jax.vmap over cotangents, as in jax.jacrev", gradient, jacobian_rows, case.active, cotangents)
    return _same(max(batched, rows))


def scan(case: Case) -> Outcome:
    """The gradient through `lax.scan` is that of the Python loop, shared arguments and those of one step alike."""
    start = jax.tree.map(jnp.zeros_like, case.base.outputs)
    offsets = _stack([jax.tree.map(jnp.subtract, member, case.active) for member in case.members])

    def step(shared: Leaves, total: Leaves, offset: Leaves) -> Leaves:
        return _add(total, case.call(_add(shared, offset)))

    def run_scan(shared: Leaves, offsets: Leaves) -> Leaves:
        return jax.lax.scan(lambda total, offset: (step(shared, total, offset), None), start, offsets)[0]

    def run_loop(shared: Leaves, offsets: Leaves) -> Leaves:
        total = start
        for i in range(3):
            total = step(shared, total, _take(offsets, i))
        return total

    def differentiate(total: Callable[..., Leaves]) -> Callable[..., Leaves]:
        def compute(shared: Leaves, offsets: Leaves, cotangent: Leaves) -> Leaves:
            d_shared, d_offsets = jax.vjp(total, shared, offsets)[1](cotangent)
            return d_shared | {f"{path} of each step": leaf for path, leaf in d_offsets.items()}

        return compute

    inputs = (case.active, offsets, case.cotangent())
    return _same(
        case.agree("in lax.scan", differentiate(run_scan)(*inputs), differentiate(run_loop), *inputs), "the loop's"
    )


def remat(case: Case) -> Outcome:
    """Under `jax.checkpoint` the gradient is the eager one."""
    active, cotangent = case.point
    return _same(case.agree("under jax.checkpoint", jax.vjp(jax.checkpoint(case.call), active)[1](cotangent)[0]))


def sharded(case: Case) -> Outcome:
    """With leading axes spread over devices the gradient is the eager one."""
    point, devices = case.point, jax.local_devices()
    if len(devices) == 1:
        remedy = (
            "XLA_FLAGS=--xla_force_host_platform_device_count=8, set before JAX starts, gives 8 virtual CPU devices"
        )
        raise Unavailable(f"one device; {remedy}")
    lengths = [leaf.shape[0] for leaf in case.active.values() if leaf.ndim]
    counts = [n for n in range(2, len(devices) + 1) if any(length and length % n == 0 for length in lengths)]
    if not counts:
        raise Unavailable(f"no leading axis divides over 2 to {len(devices)} devices; give longer arguments")
    n = counts[-1]
    mesh = Mesh(np.array(devices[:n]), ("devices",), axis_types=(AxisType.Auto,))

    def place(leaf: Any) -> Any:
        divides = leaf.ndim and leaf.shape[0] and leaf.shape[0] % n == 0
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("devices") if divides else PartitionSpec()))

    worst = case.agree(f"sharded over {n} devices", jax.jit(case.gradient)(*jax.tree.map(place, point)))
    return "PASS", f"on {n} devices within {worst:.2g} eps of the eager gradient"


def repeated(case: Case) -> Outcome:
    """The same call gives the same bits."""
    base = case.base
    for _ in range(2):
        outputs, pullback = jax.vjp(case.call, case.active)
        for path in _other_bits(outputs | pullback(case.cotangent())[0], base.outputs | base.gradient):
            raise Differs(f"{path} has other bits in a second call; keep no state between calls, take a key for noise")
    return "PASS", "3 calls give the same bits"


def reuse(case: Case) -> Outcome:
    """Residuals serve more than once, and the pullback is linear in the cotangent."""
    first, second = case.cotangent(0), case.cotangent(1)

    # Powers of two: only the sum rounds.
    def combine(a: Leaves, b: Leaves) -> Leaves:
        return jax.tree.map(lambda a, b: 4 * a - 2 * b, a, b)

    def separately(active: Leaves, first: Leaves, second: Leaves) -> Leaves:
        pullback = jax.vjp(case.call, active)[1]
        return combine(pullback(first)[0], pullback(second)[0])

    pullback = jax.vjp(case.call, case.active)[1]
    before, _, after = pullback(first)[0], pullback(second)[0], pullback(first)[0]
    for path in _other_bits(after, before):
        raise Differs(f"{path} has other bits when the residuals are used again; the backward rule may not change them")
    at_once = pullback(combine(first, second))[0]
    worst = case.agree("the pullback is not linear in the cotangent", at_once, separately, case.active, first, second)
    return "PASS", f"same bits when used again; linear in the cotangent within {worst:.2g} eps"


def zeros(case: Case) -> Outcome:
    """One result's cotangent alone, and some arguments' gradients alone, are what they are among the others."""
    active, cotangent = case.point
    names = sorted(cotangent) if len(cotangent) > 1 else []
    subsets = _subsets(list(active))
    if not (names or subsets):
        raise Unavailable("one floating result and one floating argument: nothing to leave out")
    worst = [0.0]
    for name in names:
        gradient = jax.vjp(lambda active, name=name: case.call(active)[name], active)[1](cotangent[name])[0]
        alone = jax.tree.map(jnp.zeros_like, cotangent) | {name: cotangent[name]}
        worst.append(case.agree(f"cotangent of {name} only", gradient, case.gradient, active, alone))
    for subset in subsets:
        part, rest = ({p: leaf for p, leaf in active.items() if (p in subset) == inside} for inside in (True, False))
        gradient = jax.vjp(lambda part, rest=rest: case.call(part | rest), part)[1](cotangent)[0]

        def restrict(active: Leaves, cotangent: Leaves, subset: frozenset[str] = subset) -> Leaves:
            return {path: leaf for path, leaf in case.gradient(active, cotangent).items() if path in subset}

        what = f"gradient by {', '.join(sorted(subset)[:3])} only"
        worst.append(case.agree(what, gradient, restrict, active, cotangent))
    counted = [f"each of {len(names)} results"] * bool(names) + [f"{len(subsets)} sets of arguments"] * bool(subsets)
    return "PASS", f"{' and '.join(counted)} alone: within {max(worst):.2g} eps"


def integers(case: Case) -> Outcome:
    """Integers, booleans and keys may be traced and batched, and get float0 cotangents."""
    (active, cotangent), passive = case.point, case.passive
    if not passive:
        raise Unavailable("no array of integers, booleans or keys among the arguments")

    def compute(active: Leaves, passive: Leaves, cotangent: Leaves) -> tuple[Leaves, Leaves]:
        return jax.vjp(case.call, active, passive)[1](cotangent)

    for transform in (lambda function: function, jax.jit):
        gradient, d_passive = transform(compute)(active, passive, cotangent)
        for path, leaf in d_passive.items():
            dtype, shape = np.asarray(leaf).dtype, np.shape(leaf)
            if dtype != jax.dtypes.float0 or shape != passive[path].shape:
                raise Differs(f"{path} has a cotangent {dtype}{shape}, not float0; return None for it")
        worst = case.agree("with integers traced", gradient)
    batch = [_stack([tree] * 2) for tree in (active, passive, cotangent)]
    gradient = jax.vmap(lambda *inputs: compute(*inputs)[0])(*batch)
    double = lambda active, cotangent: _stack([case.gradient(active, cotangent)] * 2)
    worst = max(worst, case.agree("with integers batched", gradient, double, active, cotangent))
    return "PASS", f"{len(passive)} traced and batched: float0, the others within {worst:.2g} eps"


def dtypes(case: Case) -> Outcome:
    """A cotangent has its argument's dtype, and has it strongly."""
    for path, leaf in case.base.gradient.items():
        received, wanted = jax.typeof(leaf), case.active[path].dtype
        if received.dtype != wanted:
            raise Differs(
                f"{path} is {wanted}, its cotangent {received.dtype}; cast it in the backward rule by .astype"
            )
        if received.weak_type:
            raise Differs(f"{path} has a weakly typed cotangent; give it a dtype, e.g. jnp.full(shape, value, x.dtype)")
    return "PASS", f"{', '.join(sorted({str(leaf.dtype) for leaf in case.active.values()}))} as the arguments, not weak"


def residuals(case: Case) -> Outcome:
    """What the pullback keeps beside the arguments."""
    given = {_identity(leaf) for leaf in (*case.active.values(), *case.passive.values())}
    outputs = {_identity(leaf): leaf.nbytes for leaf in case.base.outputs.values()}
    arrays = [leaf for leaf in jax.tree.leaves(case.base.pullback) if hasattr(leaf, "nbytes")]
    kept = {_identity(leaf): leaf.nbytes for leaf in arrays if _identity(leaf) not in given}
    arguments = sum(leaf.nbytes for leaf in (*case.active.values(), *case.passive.values()))
    shared = sum(size for which, size in kept.items() if which in outputs)
    results = f" ({shared:,} of them results)" if shared else ""
    sizes = f"arguments are {arguments:,}, results {sum(outputs.values()):,}"
    return "NOTE", f"{sum(kept.values()):,} bytes kept beside the arguments{results}; {sizes}"


def forward(case: Case) -> Outcome:
    """Forward mode, where it exists, is the adjoint of reverse mode: <c, J t> = <J^T c, t>."""
    paths = sorted(case.base.gradient)
    try:
        jax.jvp(case.call, (case.active,), (case.active,))
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return "NOTE", "no: custom_vjp; a jax.custom_jvp whose rule JAX can transpose has both modes"
    worst = max(_adjoint_gap(case, path) for path in paths)
    return "PASS", f"<c, J t> = <J^T c, t> within {worst:.2g} eps"


def _adjoint_gap(case: Case, path: str) -> float:
    """How far <c, J t> is from <J^T c, t> for a tangent of one leaf, in eps."""
    # Along the gradient, <J^T c, t> has no cancellation, so that roundings stay small beside it.
    along = np.asarray(case.base.gradient[path]).conj()
    along = along if np.any(along) else np.ones_like(along)
    along = jnp.asarray(along / np.linalg.norm(along.astype(np.complex128)), case.active[path].dtype)

    def sides(active: Leaves, cotangent: Leaves) -> tuple[float, float, float]:
        tangent = jax.tree.map(jnp.zeros_like, active) | {path: along}
        pushed = jax.jvp(case.call, (active,), (tangent,))[1]
        terms = np.concatenate([_product(cotangent[name], pushed[name]) for name in sorted(pushed)])
        inner = _product(case.gradient(active, cotangent)[path], along)
        return float(terms.sum()), float(inner.sum()), float(np.linalg.norm(terms) + np.linalg.norm(inner))

    cotangent = case.cotangent()
    left, right, scale = sides(case.active, cotangent)
    gap = abs(left - right)
    if not gap <= case.tolerance * scale:
        perturbed = [sides(*case.perturb((case.active, cotangent), seed)) for seed in range(3)]
        noise = max(abs(a - left) + abs(b - right) for a, b, _ in perturbed)
        if not gap <= case.tolerance * scale + 8 * noise:
            raise Differs(
                f"{path}: <c, J t> = {left:.6g} by jax.jvp, <J^T c, t> = {right:.6g} by jax.vjp; one is wrong"
            )
    return gap / scale / case.eps if scale else 0.0


def _product(a: Any, b: Any) -> np.ndarray:
    """The terms of the real bilinear inner product that JAX transposes by."""
    return (np.asarray(a).astype(np.complex128) * np.asarray(b).astype(np.complex128)).real.ravel()


def _same(worst: float, reference: str = "the eager gradient") -> Outcome:
    return "PASS", f"within {worst:.2g} eps of {reference}" if worst else f"equal to {reference}"


def _stack(trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _take(tree: Leaves, i: int) -> Leaves:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _add(a: Leaves, b: Leaves) -> Leaves:
    return jax.tree.map(jnp.add, a, b)


def _other_bits(leaves: Leaves, expected: Leaves) -> list[str]:
    bits = lambda leaf: np.asarray(leaf).tobytes()
    return [path for path in sorted(expected) if bits(leaves[path]) != bits(expected[path])]


def _subsets(paths: list[str]) -> list[frozenset[str]]:
    """Each argument alone, every second leaf, and the others."""
    arguments: dict[str, list[str]] = {}
    for path in paths:
        arguments.setdefault(path[: path.index("]") + 1], []).append(path)
    candidates = [*arguments.values(), paths[::2], paths[1::2]]
    distinct = dict.fromkeys(frozenset(paths) for paths in candidates)
    return [subset for subset in distinct if 0 < len(subset) < len(paths)]


def _identity(leaf: Any) -> int:
    """Equal for two handles of one buffer."""
    try:
        return leaf.unsafe_buffer_pointer()
    # Keys, and arrays on several devices, have no single buffer.
    except (AttributeError, ValueError, TypeError, NotImplementedError, RuntimeError):
        return id(leaf)


ROWS: dict[str, tuple[Callable[[Case], Outcome], str]] = {
    "eager": (eager, "the rule raises where jax.vjp calls it: fix this first"),
    "jit": (jit, "decide on values by jnp.where or lax.cond, not in Python"),
    "vmap": (vmap, "the rule must be batchable: JAX primitives, or a vmap rule of its own"),
    "scan": (scan, "return residuals from the forward rule, and cotangents of the arguments' dtypes"),
    "remat": (remat, "the rule must be traceable without effects, with its residuals returned"),
    "sharded": (sharded, "name no devices inside the operation"),
    "repeated": (repeated, "keep no state between calls"),
    "reuse": (reuse, "the backward rule may not consume its residuals"),
    "zeros": (zeros, "expect zero cotangents, and SymbolicZero where the rule asked for them"),
    "integers": (integers, "return None as the cotangent of integers, booleans and keys"),
    "dtypes": (dtypes, "return arrays of the arguments' dtypes"),
    "residuals": (residuals, "the pullback is a pytree of the arrays that it keeps"),
    "forward": (forward, "the tangent rule must accept what jax.jvp gives it"),
}
"""Each row's name, its function and what to do where the function raises."""
