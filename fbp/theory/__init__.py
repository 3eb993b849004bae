"""Mean-field theory of signal propagation at initialization: what widths without bound predict, before any run.

z_l = W_l h_{l-1} + b_l, h = g(z), Var W = sigma_w^2 / fan_in, Var b = sigma_b^2, q = E z^2, chi_1 = sigma_w^2 E g'^2.
"""

from fbp.theory.architectures import Propagation as Propagation
from fbp.theory.architectures import propagation as propagation
from fbp.theory.fixed_points import edge_of_chaos as edge_of_chaos
from fbp.theory.fluctuations import LogNorm as LogNorm
from fbp.theory.fluctuations import jacobian_variance as jacobian_variance
from fbp.theory.fluctuations import kappa as kappa
from fbp.theory.fluctuations import linear_second_moment as linear_second_moment
from fbp.theory.fluctuations import log_variance as log_variance
from fbp.theory.fluctuations import relu_log_norm as relu_log_norm
from fbp.theory.heads import Head as Head
from fbp.theory.heads import softmax_head as softmax_head
from fbp.theory.maps import length_map as length_map
from fbp.theory.maps import second_moment as second_moment
from fbp.theory.maps import slope_correlation as slope_correlation
from fbp.theory.maps import slope_moment as slope_moment
from fbp.theory.mean_field import MeanField as MeanField
from fbp.theory.mean_field import mean_field as mean_field
from fbp.theory.tailored import tailored_leaky_slope as tailored_leaky_slope
