"""Training data: IDX files, the bundled digits, and checks on arrays; numpy only."""

from fbp.data.arrays import split, validate
from fbp.data.datasets import Dataset, load
from fbp.data.idx import read_idx, write_idx

__all__ = ["Dataset", "load", "read_idx", "split", "validate", "write_idx"]
