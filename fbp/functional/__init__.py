"""The library's rules as plain JAX functions with the hand-written derivative, for use in anybody's model."""

from fbp.functional.activations import gelu as gelu
from fbp.functional.activations import silu as silu
from fbp.functional.activations import softmax as softmax
from fbp.functional.activations import swiglu as swiglu
from fbp.functional.attention import dot_product_attention as dot_product_attention
from fbp.functional.attention import rotary as rotary
from fbp.functional.dense import dense as dense
from fbp.functional.dense import feed_forward as feed_forward
from fbp.functional.losses import linear_cross_entropy as linear_cross_entropy
from fbp.functional.losses import softmax_cross_entropy as softmax_cross_entropy
from fbp.functional.losses import softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels
from fbp.functional.normalization import batch_norm as batch_norm
from fbp.functional.normalization import layer_norm as layer_norm
from fbp.functional.normalization import rms_norm as rms_norm
