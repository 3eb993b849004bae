"""The loss of a classifier before training, from the variance of its logits."""

import math
from typing import NamedTuple

import numpy as np

from fbp.errors import FbpError
from fbp.theory.quadrature import limited, normal_nodes, panels


class Head(NamedTuple):
    """Expectations for one example whose logits are independent Gaussians."""

    loss: float
    """E of softmax cross-entropy, in nats."""
    dZ_mean_square: float
    """E ||dZ||^2, dZ the softmax minus the one-hot label."""


def softmax_head(classes: int, variance: float = 0.0) -> Head:
    """Loss and gradient of softmax cross-entropy at initialization.

    With logits z_i ~ N(0, variance), S = sum_i e^{z_i} and M(t) = E e^{-t e^z},

        E log S = integral (e^{-t} - M(t)^k) dt / t,    E ||dZ||^2 = 1 - 2/k + k E p_1^2
        E p_1^2 = E e^{2 z_1} / S^2 = integral t E[e^{2z} e^{-t e^z}] M(t)^{k-1} dt

    so that k dimensions become two. Zero logits give log k and 1 - 1/k; a head with Var W = 2 / fan_in on
    inputs of mean square 1 has a variance of 2.

    Args:
        classes: k, at least 2.
        variance: of each logit.

    Returns:
        (loss, dZ_mean_square).

    Raises:
        FbpError: fewer than 2 classes, or a variance outside 0 to 100.
    """
    if classes < 2 or not 0 <= variance <= 100:
        raise FbpError(
            "classes must be at least 2 and the variance of logits from 0 to 100, where 8 digits hold, "
            f"got classes={classes}, variance={variance}; rescale the head"
        )
    x, weight = normal_nodes(limited(variance))
    z = math.sqrt(variance) * x
    reach = 12 * math.sqrt(variance)
    # In log t the integrands are smooth, and vanish doubly exponentially on the right, exponentially on the left.
    u, du = panels(np.linspace(-45 - reach - math.log(classes), 6 + reach, 300), 10)
    # Beyond 7 both e^{-t e^z} and its weighted twin are 0.
    log = np.minimum(u[:, None] + z, 7)
    # 1 - M by expm1 on the left, where both terms of the loss are nearly 1.
    missing = -np.sum(weight * np.expm1(-np.exp(log)), axis=-1)
    with np.errstate(divide="ignore"):
        power = classes * np.log1p(-np.minimum(missing, 1))
    loss = float(np.sum(du * (np.expm1(-np.exp(u)) - np.expm1(power))))
    pair = np.sum(weight * np.exp(2 * log - np.exp(log)), axis=-1)
    rest = np.exp((classes - 1) / classes * power)
    return Head(loss, float(1 - 2 / classes + classes * np.sum(du * pair * rest)))
