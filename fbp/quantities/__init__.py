"""What a visible backward pass gives beside the gradient: norms of each example's own gradient, and clipping."""

from fbp.quantities.per_example import clipped_grad as clipped_grad
from fbp.quantities.per_example import per_example_norms as per_example_norms
