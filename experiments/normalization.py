"""Normalization and the gradient.

What do batch, layer and RMS normalization do to gradients, before and after a residual sum?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import fbp
from fbp.report import Curve, Figure, Table, Text, interval, number, panels, significant
from fbp.studies import Draft, study

WIDTH, EXAMPLES, LARGER = 128, 64, 3.0


NETWORKS: dict[str, dict[str, Any]] = {
    "none": {"norm": "none"},
    "batch norm": {"norm": "batch"},
    "layer norm": {"norm": "layer"},
    "RMS norm": {"norm": "rms"},
    "residual, pre-LN": {"norm": "layer", "residual": True},
    "residual, post-LN": {"norm": "layer", "residual": True, "post_norm": True},
}
"""What each network is made of; theory is asked about the same."""


def build(depth, norm, residual=False, post_norm=False) -> fbp.Layer:
    """A relu network with He initialization."""
    if not post_norm:
        return fbp.mlp((WIDTH,) * (depth + 2), "relu", "he_normal", norm=norm, residual=residual)
    branch = fbp.Serial(fbp.Activation("relu"), fbp.Dense(WIDTH))
    blocks = fbp.Repeat(fbp.Serial(fbp.Residual(branch), fbp.LayerNorm()), depth)
    return fbp.Serial(fbp.Dense(WIDTH), blocks, fbp.Dense(WIDTH), shape=(WIDTH,))


@study
def normalization(draft: Draft) -> None:
    """Six networks of one depth: measured norms of dZ over layers, and what mean-field theory says."""
    depth, seeds = (12, 10) if draft.quick else (32, 40)
    draft.setting = {"depth": depth, "width": WIDTH, "networks a curve": seeds, "examples": EXAMPLES}
    draw = np.random.default_rng(0).standard_normal((EXAMPLES, WIDTH))
    # Half the mean square of the lengths to come: He's variance makes it 1 in the first layer.
    X = jnp.asarray(draw / np.sqrt(2 * np.mean(draw**2, axis=1, keepdims=True)), jnp.float32)
    drawn, totals, rows, by = [], {}, [], {}
    for name, parts in NETWORKS.items():
        draft.progress(name)
        flow = fbp.flow.measure(build(depth, **parts), X=X, seeds=seeds, scales=(1.0, LARGER))
        batch = EXAMPLES if parts["norm"] == "batch" else None
        theory = fbp.theory.propagation("relu", 2**0.5, depth=depth, batch=batch, **parts)
        # Mean-field theory predicts the mean of ‖dZ‖^2; the interval is that of its root, in decades.
        measured = flow.interval("dZ", mean="arithmetic")
        low, value, high = (x[: depth + 1] - measured.mean[depth] for x in measured)
        expected, behind = theory.log10_dZ / 2, 0.0
        if "post_norm" in parts:
            # These dense layers stand before the norm, which divides by the root of q + F(q) = 2 q.
            decades = np.log10(2 * theory.q[:-1]) / 2
            behind = decades[-1]
            expected = expected + behind - np.append(0, decades)
        if batch:
            expected[0] = np.nan
        drawn.append((name, [Curve("measured", np.arange(1, depth + 2), value, low, high, expected)]))
        # Over whole blocks: from the last one's output, behind its norm, to the first one's input.
        totals[name] = float(10 ** (2 * (value[0] - behind))), float(10 ** theory.log10_dZ[0])
        # The first layer has inputs of another kind: the rate is that from the last block to the first.
        predicted = float(10 ** (2 * expected[1] / (depth - 1)))
        found, larger = (fbp.flow.diagnose(flow.log10.dZ[i, :, 1 : depth + 1], None) for i in range(2))
        by[name] = {"measured": found.rate, "theory": predicted, "larger": larger.rate}
        ends = interval(found.low, found.high, 3)
        rates = significant(predicted), significant(larger.rate)
        rows.append((name, found.kind, significant(found.rate), ends, *rates))
        draft.records += flow.records(network=name)
    draft.results = by
    pre, post = totals["residual, pre-LN"], totals["residual, post-LN"]
    none, batch, layer, rms = (by[name] for name in ("none", "batch norm", "layer norm", "RMS norm"))
    draft.findings = [
        f"Batch normalization through its own statistics makes $‖dZ‖^2$ **grow ×{batch['measured']:.3f} a layer** "
        f"towards the input (theory {batch['theory']:.3f}): it normalizes the way forward alone.",
        f"Layer and RMS norm change little in a He relu network: ×{layer['measured']:.3f} and ×{rms['measured']:.3f} a "
        f"layer, ×{none['measured']:.3f} without (theory, of infinite width, {layer['theory']:.3f}). With weights "
        f"{LARGER:g} times as large it is ×{layer['larger']:.3f} and ×{rms['larger']:.3f}, and "
        f"×{number(none['larger'], 3)} without.",
        "In residual networks the place of the norm decides: before the branch the whole network changes $‖dZ‖^2$ by "
        f"×{pre[0]:.1f}, after the sum by ×{number(post[0], 2)} (theory ×{pre[1]:.1f} and ×{number(post[1], 2)}).",
    ]

    draft.section(
        "Six networks",
        Text(
            f"{depth} equal blocks of width {WIDTH}, relu, He initialization, {EXAMPLES} random inputs, a random "
            "cotangent at the output. Norms are root mean squares over networks, with 95 % intervals."
        ),
        Figure(
            "flow",
            "Gradient norms by layer, relative to the last block. The theory of batch normalization is that of its "
            "fixed point, which the first layer has not reached.",
            partial(panels, drawn, "layer $l$ (input on the left)", "$log_{10} ‖dZ_l‖ / ‖dZ_L‖$"),
        ),
        Table(
            "Factor of $‖dZ‖^2$ a layer, the mean from the last block to the first, also with larger weights. Theory "
            "is that of infinite width.",
            ("network", "verdict", "measured", "95 % interval", "theory", f"weights × {LARGER:g}"),
            tuple(rows),
        ),
    )


if __name__ == "__main__":
    normalization.main()
