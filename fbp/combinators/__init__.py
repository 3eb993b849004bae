"""Combinators: layers in, a layer out. They own the forward loop and the reverse loop.

A tree that belongs to a network (parameters, caches, gradients, readings) has the network's shape: a tuple for
`Serial`, the child's own tree for `Residual` and `Checkpoint`, the child's tree with a leading axis for `Repeat`.
"""

from fbp.combinators.base import Combinator as Combinator
from fbp.combinators.network import Network as Network
from fbp.combinators.repeat import Repeat as Repeat
from fbp.combinators.serial import Serial as Serial
from fbp.combinators.wrappers import Checkpoint as Checkpoint
from fbp.combinators.wrappers import Residual as Residual
