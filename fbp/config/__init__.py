"""What a command line says about a network and a training: parsed and checked before anything heavy is imported."""

from fbp.config.network import COMPARISON as COMPARISON
from fbp.config.network import SHARED as SHARED
from fbp.config.network import TRAINING as TRAINING
from fbp.config.network import Demand as Demand
from fbp.config.network import Integer as Integer
from fbp.config.network import NetworkConfig as NetworkConfig
from fbp.config.network import PictureConfig as PictureConfig
from fbp.config.network import TransformerConfig as TransformerConfig
from fbp.config.network import check_unused as check_unused
from fbp.config.network import count_transformer as count_transformer
from fbp.config.network import draw_parameters as draw_parameters
from fbp.config.network import integers as integers
from fbp.config.network import names as names
from fbp.config.network import unused_option as unused_option
from fbp.config.training import TrainingConfig as TrainingConfig
