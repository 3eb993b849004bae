"""Gradients by local rules of functions that nobody here wrote, against `jax.grad`."""

import numpy as np
import pytest
from graph_cases import draw
from graph_functions import FUNCTIONS
from test_graph_rules import gradients

IN_FLOAT32 = ("nn-attention",)
"""Functions that add up in float32, whatever they are given."""

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_there_are_enough_of_them():
    assert len(FUNCTIONS) >= 100


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_equals_that_of_jax(name, x64):
    f, args = FUNCTIONS[name]
    (value, ours), (expected, theirs) = gradients(f, draw(args, np.float64))
    assert np.allclose(value, expected, rtol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.all(np.isfinite(b))
        # Factorizations and iterations round more than once.
        rounding = 1e-6 if name in IN_FLOAT32 else 1e-11
        assert np.max(np.abs(a - b)) <= rounding * max(1.0, float(np.max(np.abs(b))))
