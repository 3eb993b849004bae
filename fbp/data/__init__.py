"""Training data: a name, a file or a folder becomes a `Dataset`, and arrays are checked; see docs/data.md."""

from fbp.data.arrays import split as split
from fbp.data.arrays import validate as validate
from fbp.data.datasets import Dataset as Dataset
from fbp.data.datasets import scale as scale
from fbp.data.idx import read_idx as read_idx
from fbp.data.idx import write_idx as write_idx
from fbp.data.images import read_image as read_image
from fbp.data.loading import load as load
from fbp.data.text import decode as decode
from fbp.data.text import encode as encode
from fbp.data.text import windows as windows
