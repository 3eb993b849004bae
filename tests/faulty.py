"""A wrong backward pass that several tests look for."""

from dataclasses import dataclass

from fbp import Dense


@dataclass(frozen=True)
class FlippedSign(Dense):
    def backward(self, params, cache, dA_out):
        d_params, dA_in = super().backward(params, cache, dA_out)
        return d_params | {"W": -d_params["W"]}, dA_in
