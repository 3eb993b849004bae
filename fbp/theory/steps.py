"""How lengths, correlations and gradients pass the steps of a network: a forward and a backward rule for each.

A value Z is described by q = E z^2 of an entry and c, the correlation of two examples; its gradient by E ||dZ||^2, by
the correlation of two examples' gradients, and by its radial part. Entries of Z have mean 0, examples are all alike.
E is over the random parameters; W and the gradient that it passes are taken as independent, which is exact for large
widths except along Z itself (see `Gradient.radial`). Yang (2019) says when.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory.batch_norm import batch_norm_moments
from fbp.theory.maps import (
    angle,
    homogeneous_slope,
    radial_moments,
    secant,
    second_moment,
    slope_moment,
    slope_product,
)

LARGEST = 1e150
"""A mean square up to which its square is finite."""


class Value(NamedTuple):
    """Of one pre-activation.

    Attributes:
        q: E z^2.
        distance: 1 - c, c the correlation of two examples; NaN where it is not followed.
    """

    q: float
    distance: float


class Gradient(NamedTuple):
    """Of the gradient with respect to one value.

    Attributes:
        log: ln of E ||dZ||^2, relative to that of the network's output.
        correlation: E dZ_i . dZ_j / E ||dZ_i||^2 of two examples; NaN where it is not followed.
        radial: the excess e = n E (Z . dZ)^2 / (E ||Z||^2 E ||dZ||^2) - 1 of the gradient along Z over its share of the
            n directions; 0 for a gradient without preferred direction, or with less along Z.
    """

    log: float
    correlation: float
    radial: float = 0.0

    def scale(self, factor: float) -> "Gradient":
        """The gradient with its mean square multiplied."""
        return self._replace(log=self.log + (math.log(factor) if factor > 0 else -math.inf))


@dataclass(frozen=True)
class Hidden:
    """Z -> g(norm Z) W + b: normalization, activation and dense layer.

        q' = sigma_w^2 E g(sqrt(q) x)^2 + sigma_b^2        E ||dZ||^2 = sigma_w^2 E g'(sqrt(q) x)^2 E ||dZ'||^2
        q' c' = sigma_w^2 E g(z_i) g(z_j) + sigma_b^2      E dZ_i . dZ_j = sigma_w^2 E g'(z_i) g'(z_j) E dZ'_i . dZ'_j

    with z_i, z_j of variance q and correlation c. Layer and RMS norm put 1 in the place of q and divide gradients by q;
    batch normalization has its own moments (`fbp.theory.batch_norm`). With widths n of Z and n' of Z' the excess e of
    the gradient along Z, of which mean-field theory knows nothing, follows

        E ||dZ||^2 = (sigma_w^2 E g'^2 + H e' / n) E ||dZ'||^2,    H = sigma_w^4 E (g g')^2 / q'
        (1 + e) E ||dZ||^2 = (sigma_w^2 E (z g')^2 / q + F'^2 (q/q') e') E ||dZ'||^2,    F' = dq'/dq

    because z . dZ = F' q/q' (z' . dZ') and noise: who scales Z by 1 + t scales Z' by 1 + F' q/q' t. It starts with
    1/n of the gradient and outlives the rest where F'^2 q/q' is larger than sigma_w^2 E g'^2, as for softplus, whose
    activations have a positive mean. A negative e is taken as 0.

    Attributes:
        activation: g.
        sigma_w: Var W = sigma_w^2 / fan_in.
        sigma_b: Var b = sigma_b^2.
        norm: "none", "batch", "layer" or "rms".
        batch: the examples of batch normalization; None for the limit of many.
        eps: added to the mean square by layer and RMS norm.
        width: n, for the gradient along Z; None for the limit of large widths.
    """

    activation: Nonlinearity
    sigma_w: float
    sigma_b: float = 0.0
    norm: str = "none"
    batch: int | None = None
    eps: float = 0.0
    width: int | None = None

    def forward(self, value: Value) -> Value:
        """The value behind the dense layer."""
        if self.norm == "batch":
            moments = batch_norm_moments(self.activation, self.batch)
            q = self.sigma_w**2 * moments.second + self.sigma_b**2
            return Value(q, self.sigma_w**2 * moments.spread / q if q else math.nan)
        inner = self._normalize(value.q)
        q = self.sigma_w**2 * self.second(value) + self.sigma_b**2
        if math.isnan(value.distance) or q == 0:
            return Value(q, math.nan)
        apart = secant(self.activation, inner, angle(value.distance)) * inner * value.distance
        return Value(q, self.sigma_w**2 * apart / q)

    def backward(self, value: Value, after: Value, gradient: Gradient) -> Gradient:
        """The gradient with respect to the input, from that with respect to the output.

        Args:
            value: the input.
            after: the output.
            gradient: with respect to it.
        """
        if self.norm == "batch":
            return self._backward_through_batch(value, gradient)
        inner, shrink = self._normalize(value.q), 1.0 if self.norm == "none" else 1 / (value.q + self.eps)
        slope = _slope(self.activation, inner)
        factor, correlation, radial = self.sigma_w**2 * slope * shrink, gradient.correlation, 0.0
        if correlation and not math.isnan(value.distance):
            correlation *= slope_product(self.activation, inner, angle(value.distance)) / slope if slope else 0.0
        elif correlation:
            correlation = math.nan
        known = value.q > 0 and after.q > 0 and max(value.q, after.q) < LARGEST
        if self.norm == "none" and self.width is not None and known and factor > 0:
            along, across, scale = radial_moments(self.activation, value.q)
            along *= self.sigma_w**4 * gradient.radial / (after.q * self.width)
            scale = (self.sigma_w**2 * scale) ** 2 * value.q / after.q * gradient.radial
            factor += along
            # Unlike an excess a deficit cannot grow: it costs at most H/n a layer, as much as lengths that fluctuate.
            radial = max((self.sigma_w**2 * across + scale) / factor - 1, 0.0)
        return Gradient(gradient.log, correlation, radial).scale(factor)

    def second(self, value: Value) -> float:
        """E h^2 of the activations that the dense layer takes."""
        if self.norm == "batch":
            return batch_norm_moments(self.activation, self.batch).second
        return _second(self.activation, self._normalize(value.q))

    def _normalize(self, q: float) -> float:
        return q if self.norm == "none" else q / (q + self.eps)

    def _backward_through_batch(self, value: Value, gradient: Gradient) -> Gradient:
        within = value.q * value.distance
        if not within > 0:
            raise FbpError(
                "examples must differ and their correlation be given where there is batch normalization, "
                f"got q={value.q:.4g}, correlation {1 - value.distance:.4g}; give c_0"
            )
        moments = batch_norm_moments(self.activation, self.batch)
        factor = self.sigma_w**2 * moments.pass_back(gradient.correlation) / within
        return Gradient(gradient.log, moments.correlation).scale(factor)


@dataclass(frozen=True)
class Normalize:
    """Z -> Z / sqrt(q + eps): layer or RMS norm in the stream itself, as behind the sum of a post-norm block.

    Attributes:
        eps: added to the mean square.
    """

    eps: float = 0.0

    def forward(self, value: Value) -> Value:
        """The value of mean square 1, up to eps."""
        return value._replace(q=value.q / (value.q + self.eps))

    def backward(self, value: Value, after: Value, gradient: Gradient) -> Gradient:
        """The gradient over q + eps; of what is along Z nothing is left."""
        return gradient._replace(radial=0.0).scale(1 / (value.q + self.eps))


@dataclass(frozen=True)
class Branch:
    """Z -> Z + scale * steps(Z), whose sign is random: the weights of its last dense layer have mean 0.

    Both E z^2 and E z_i z_j of the sum are sums, and likewise those of the gradient at its input.

    Attributes:
        steps: of the branch, at least one of them `Hidden`.
        scale: alpha, the factor of the branch.
    """

    steps: "tuple[Step, ...]"
    scale: float = 1.0

    def forward(self, value: Value) -> Value:
        """The sum."""
        end = self.scale**2 * self._values(value)[-1].q
        q, distance = value.q + end, value.distance * value.q
        if end:
            distance += end * self._values(value)[-1].distance
        return Value(q, distance / q if q else math.nan)

    def backward(self, value: Value, after: Value, gradient: Gradient) -> Gradient:
        """The sum of the gradient and of what the branch makes of it."""
        own = self.gradients(value, gradient._replace(log=0.0))[0]
        part = math.exp(own.log)
        correlation = gradient.correlation
        if part and correlation != own.correlation:
            correlation = (correlation + part * own.correlation) / (1 + part)
        return Gradient(gradient.log, correlation).scale(1 + part)

    def gradients(self, value: Value, gradient: Gradient) -> list[Gradient]:
        """Of the values inside, from the branch's input to its output.

        Args:
            value: the input.
            gradient: that of the sum.
        """
        return list_gradients(self.steps, self._values(value), gradient._replace(radial=0.0).scale(self.scale**2))

    def _values(self, value: Value) -> "list[Value]":
        return list_values(self.steps, value)


Step: TypeAlias = Hidden | Normalize | Branch


def list_values(steps: Sequence[Step], start: Value) -> list[Value]:
    """The values before, between and behind the steps.

    Args:
        steps: of a network or a branch.
        start: what enters the first.
    """
    values = [start]
    for step in steps:
        values.append(step.forward(values[-1]))
    return values


def list_gradients(steps: Sequence[Step], values: Sequence[Value], end: Gradient) -> list[Gradient]:
    """The gradients with respect to the same values.

    Args:
        steps: of a network or a branch.
        values: as `list_values` gives them.
        end: the gradient behind the last step.
    """
    gradients = [end]
    for step, value, after in zip(reversed(steps), reversed(values[:-1]), reversed(values), strict=False):
        gradients.append(step.backward(value, after, gradients[-1]))
    return gradients[::-1]


class Dense(NamedTuple):
    """Of one dense layer.

    Attributes:
        output: its output.
        gradient: with respect to that.
        second: E h^2 of its input.
    """

    output: Value
    gradient: Gradient
    second: float


def list_dense(steps: Sequence[Step], values: Sequence[Value], gradients: Sequence[Gradient]) -> list[Dense]:
    """What is known of every dense layer, those of branches included, in forward order.

    Args:
        steps: of a network or a branch.
        values: as `list_values` gives them.
        gradients: as `list_gradients` gives them.
    """
    found: list[Dense] = []
    for i, step in enumerate(steps):
        if isinstance(step, Hidden):
            found.append(Dense(values[i + 1], gradients[i + 1], step.second(values[i])))
        elif isinstance(step, Branch):
            inside = list_values(step.steps, values[i])
            found += list_dense(step.steps, inside, step.gradients(values[i], gradients[i + 1]))
    return found


def scale_weights(steps: Sequence[Step], factor: float) -> tuple[Step, ...]:
    """The same steps with every W of a dense layer multiplied.

    Args:
        steps: of a network or a branch.
        factor: at least 0.
    """

    def scale(step: Step) -> Step:
        if isinstance(step, Hidden):
            return replace(step, sigma_w=factor * step.sigma_w)
        return replace(step, steps=scale_weights(step.steps, factor)) if isinstance(step, Branch) else step

    return tuple(map(scale, steps))


@lru_cache(maxsize=4096)
def _second(activation: Nonlinearity, q: float) -> float:
    a = homogeneous_slope(activation)
    return float(second_moment(activation, q)) if a is None else (1 + a * a) / 2 * q


@lru_cache(maxsize=4096)
def _slope(activation: Nonlinearity, q: float) -> float:
    a = homogeneous_slope(activation)
    return float(slope_moment(activation, q)) if a is None else (1 + a * a) / 2
