"""Training data: IDX files, the bundled digits, and checks on arrays; numpy only."""

from fbp.data.arrays import split as split
from fbp.data.arrays import validate as validate
from fbp.data.datasets import Dataset as Dataset
from fbp.data.datasets import load as load
from fbp.data.idx import read_idx as read_idx
from fbp.data.idx import write_idx as write_idx
