"""The picture of the README: what the way back to the input does to a gradient, for five usual networks.

python docs/pictures/gradient_flow.py
"""

from pathlib import Path

import numpy as np

import fbp
from fbp.report import Curve, curves

DEPTH, WIDTH = 20, 256
NETWORKS = {
    "tanh, variance 4/n": ("tanh", "mean_field(2)"),
    "relu, variance 2/n (He)": ("relu", "he_normal"),
    "tanh, variance 1/n": ("tanh", "lecun_normal"),
    "relu, variance 1/n": ("relu", "lecun_normal"),
    "sigmoid, variance 2/n": ("sigmoid", "he_normal"),
}


def draw() -> None:
    """Write gradient_flow.svg beside this script."""
    lines = []
    for label, (activation, init) in NETWORKS.items():
        flow = fbp.flow.measure(fbp.mlp((WIDTH,) * (DEPTH + 1), activation, init, repeat=True), seeds=20)
        last = flow.quantiles()[1][-1]
        low, median, high = (x - last for x in flow.quantiles())
        lines.append(Curve(label, np.arange(1, DEPTH + 1), median, low, high, flow.expected() - last))
    figure = curves(lines, "layer $l$ (input on the left)", "log$_{10}$ of $‖dZ_l‖ / ‖dZ_L‖$")
    figure.axes[0].set_xticks(range(0, DEPTH + 1, 5))
    with fbp.report.style():
        figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    draw()
