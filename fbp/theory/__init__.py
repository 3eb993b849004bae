"""Mean-field theory of signal propagation at initialization: what widths without bound predict, before any run.

z_l = W_l h_{l-1} + b_l, h = g(z), Var W = sigma_w^2 / fan_in, Var b = sigma_b^2, q = E z^2, chi_1 = sigma_w^2 E g'^2.
"""

from fbp.theory.architectures import Propagation, propagation
from fbp.theory.fixed_points import edge_of_chaos
from fbp.theory.fluctuations import (
    LogNorm,
    jacobian_variance,
    kappa,
    linear_second_moment,
    log_variance,
    relu_log_norm,
)
from fbp.theory.heads import Head, softmax_head
from fbp.theory.maps import length_map, second_moment, slope_moment
from fbp.theory.mean_field import MeanField, mean_field
from fbp.theory.tailored import tailored_leaky_slope

__all__ = [
    "Head",
    "LogNorm",
    "MeanField",
    "Propagation",
    "edge_of_chaos",
    "jacobian_variance",
    "kappa",
    "length_map",
    "linear_second_moment",
    "log_variance",
    "mean_field",
    "propagation",
    "relu_log_norm",
    "second_moment",
    "slope_moment",
    "softmax_head",
    "tailored_leaky_slope",
]
