"""Measured curves over the layers of random networks, and what is read from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fbp.backprop import GradientNorms
from fbp.errors import unknown_name
from fbp.flow.prediction import Plain, Prediction, predict
from fbp.flow.statistics import Interval, Mean, interval, log_interval
from fbp.flow.verdict import Diagnosis, Verdict, diagnose, verdict

NORMS = GradientNorms._fields
OTHERS = ("log10_mean_square", "correlation", "saturated", "dead", "cosine", "noise")


@dataclass(frozen=True, eq=False)
class Flow:
    """What was measured in random networks of one architecture: numpy arrays (scales, seeds, L), dense layers 1..L.

    Attributes:
        log10: log10 of the norms of dZ, dA, dW and db over the batch, as `GradientNorms`.
        scales: the factors on the weights, (scales,).
        log10_mean_square: log10 of the mean square of the pre-activations Z_l.
        correlation: the cosine of Z_l at two examples, the mean over pairs.
        saturated: the fraction of entries of Z_l with |g'| below a tenth of the largest |g'|; for relu those with
            z <= 0. NaN where no activation follows.
        dead: the fraction of units that are so at every example.
        cosine: the cosine of the gradients dW_l of two examples, the mean over pairs.
        noise: tr Cov(g) / |mean g|^2 of the examples' gradients g of W_l, the batch at which noise and signal are
            equal; McCandlish, Kaplan, Amodei et al. (2018).
        log10_singular: log10 of the singular values of the input-output Jacobian at the first example, falling,
            (scales, seeds, min(n_0, n_L)); None where they were not asked for.
        plain: what mean-field theory needs to know of the network, or why it says nothing.
    """

    log10: GradientNorms
    scales: np.ndarray
    log10_mean_square: np.ndarray
    correlation: np.ndarray
    saturated: np.ndarray
    dead: np.ndarray
    cosine: np.ndarray
    noise: np.ndarray
    log10_singular: np.ndarray | None = None
    plain: Plain | str = "the network was not described"

    def values(self, quantity: str) -> np.ndarray:
        """One quantity, (scales, seeds, L); norms as log10.

        Args:
            quantity: "dZ", "dA", "dW" or "db", or another attribute.

        Raises:
            FbpError: there is no such quantity.
        """
        if quantity in NORMS:
            return getattr(self.log10, quantity)
        if quantity not in OTHERS:
            raise unknown_name("quantity of a flow", quantity, NORMS + OTHERS)
        return getattr(self, quantity)

    def quantiles(self, quantity: str = "dZ", scale: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The 10 %, 50 % and 90 % quantiles over seeds, each (L,); of log10 norms for the four norms.

        Args:
            quantity: as for `values`.
            scale: which of `scales`.
        """
        # No interpolation: between minus infinity, a norm of zero, and a number there is nothing.
        low, median, high = np.quantile(self.values(quantity)[scale], [0.1, 0.5, 0.9], axis=0, method="inverted_cdf")
        return low, median, high

    def interval(self, quantity: str = "dZ", scale: int = 0, mean: Mean = "log", confidence: float = 0.95) -> Interval:
        """The mean over seeds with its confidence interval by Student's t, each (L,).

        Args:
            quantity: as for `values`.
            scale: which of `scales`.
            mean: for norms and mean squares, "log" for the mean of log10, or "arithmetic" for log10 of the (root)
                mean (square), which mean-field theory predicts. Networks of depth L and width n scatter by about
                exp(sqrt(kappa L / n)), so that the arithmetic mean of a deep, narrow one needs very many seeds.
            confidence: in (0, 1).

        Raises:
            FbpError: there is no such quantity or mean, or confidence is no probability.
        """
        x = self.values(quantity)[scale]
        if quantity in NORMS:
            return log_interval(x, mean, 2, confidence)
        return log_interval(x, mean, 1, confidence) if quantity == "log10_mean_square" else interval(x, confidence)

    def verdict(self, scale: int = 0) -> Verdict:
        """How the norm of dZ changes over the hidden layers: those of equal width, else all but the last.

        Args:
            scale: which of `scales`.
        """
        return verdict(self._hidden(scale))

    def diagnosis(self, scale: int = 0) -> Diagnosis:
        """The verdict beside mean-field theory, as a sentence by `str`.

        Args:
            scale: which of `scales`.
        """
        return diagnose(self._hidden(scale), *self._prediction(scale))

    def expected(self, scale: int = 0) -> np.ndarray:
        """log10 ||dZ_l|| by mean-field theory, from the measured median at the last layer of equal width on.

        Args:
            scale: which of `scales`.

        Returns:
            (L,), of width without bound; NaN where no theory holds (`plain` says why). With Gaussian weights and width
            n, ln ||dZ|| of one example has a mean that lies below by about `log_variance` / 4n a layer.
        """
        line = np.full(self.log10.dZ.shape[2], np.nan)
        predicted, _ = self._prediction(scale)
        if predicted is not None and isinstance(self.plain, Plain):
            last = self.plain.stop - 1
            with np.errstate(divide="ignore"):
                decades = np.log10(predicted.factors) / 2
            line[last] = self.quantiles("dZ", scale)[1][last]
            line[self.plain.start : last] = line[last] + np.cumsum(decades[::-1])[::-1]
        return line

    def records(self, **labels: Any) -> Iterator[dict[str, Any]]:
        """Tidy rows: one for each scale, seed and layer, with the given labels in front.

        Args:
            labels: further columns, the same in every row.
        """
        columns = {f"log10_norm_{name}": self.values(name) for name in NORMS}
        columns |= {name: self.values(name) for name in OTHERS}
        for s, seed, l in np.ndindex(self.log10.dZ.shape):
            measured = {name: float(x[s, seed, l]) for name, x in columns.items()}
            yield {**labels, "scale": float(self.scales[s]), "seed": seed, "layer": l + 1, **measured}

    def _prediction(self, scale: int) -> tuple[Prediction | None, str]:
        run = self.plain
        if isinstance(run, str):
            return None, run
        if run.stop - run.start < 2:
            return None, "no theory: one layer"
        first = float(np.mean(10.0 ** self.log10_mean_square[scale][:, run.start].astype(np.float64)))
        return predict(run, float(self.scales[scale]), first, run.stop - run.start)

    def _hidden(self, scale: int) -> np.ndarray:
        curves = np.asarray(self.log10.dZ[scale])
        if isinstance(self.plain, Plain):
            return curves[:, self.plain.start : self.plain.stop]
        return curves[:, :-1] if curves.shape[1] > 2 else curves
