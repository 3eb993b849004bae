"""Modular addition, the task on which networks are seen to generalize long after they have memorized."""

import re

import numpy as np

from fbp.data.datasets import SEED, Dataset, content_hash
from fbp.errors import FbpError

_MODULUS = 97
_LARGEST = 1000
_NAME = re.compile(r"modular(?:\((-?\d{1,20})\))?")


def is_modular(source: str) -> bool:
    """Whether a name is modular, or modular(P)."""
    return bool(_NAME.fullmatch(source))


def load_modular(source: str) -> Dataset:
    """Make all sums a + b mod p: half of the pairs, drawn with a fixed seed, to train on, the others to test on.

    An example is the tokens a, b and "="; the number p stands for "=". The targets are the next tokens, b, "=" and
    a + b mod p, so that what is to be learnt stands at the last position. Power et al. (2022).

    Args:
        source: "modular(p)"; "modular" is modular(97).

    Returns:
        X and Y of shape (m, 3), int32, with a vocabulary of p + 1 tokens.

    Raises:
        FbpError: p is out of range.
    """
    found = _NAME.fullmatch(source)
    p = int(found[1]) if found and found[1] else _MODULUS
    if not 2 <= p <= _LARGEST:
        raise FbpError(f"the modulus must be in 2..{_LARGEST}, got {p}; use modular({_MODULUS})")
    pairs = np.random.Generator(np.random.PCG64(SEED)).permutation(p * p).astype(np.int32)
    a, b = pairs // p, pairs % p
    equals = np.full_like(a, p)
    X, Y = np.stack([a, b, equals], 1), np.stack([b, equals, (a + b) % p], 1)
    half = p * p // 2
    arrays = X[:half], Y[:half], X[half:], Y[half:]
    return Dataset(
        f"modular({p})",
        *arrays,
        classes=p + 1,
        sha256=content_hash(*arrays),
        shape=(3,),
        class_names=(*map(str, range(p)), "="),
        vocabulary=p + 1,
    )
