"""Measured curves over the layers of random networks, with intervals over networks, and what is read from them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fbp.backprop import GradientNorms
from fbp.errors import unknown_name
from fbp.flow.intervals import Interval, Mean, confidence_interval, geometric_mean, interval_of_logs
from fbp.flow.prediction import PlainRun, Prediction, predict
from fbp.flow.stack import Stack, StackPrediction, predict_stack
from fbp.flow.verdicts import Diagnosis, Verdict, diagnose, verdict

NORMS = GradientNorms._fields
OTHERS = ("log10_mean_square", "correlation", "saturated", "dead", "cosine", "noise")


class Stream(NamedTuple):
    """Readings along the stream of a network, (scales, seeds, parts): the values that everything passes.

    In a plain network the parts are its dense layers. A residual block is one part: what is read is the sum, not the
    branch. In a `Network` the parts are the lines that everything passes and that have a weight matrix or join several
    values: in a transformer the embedding, the two sums of each block and the scores.

    Attributes:
        log10_dZ: log10 of the norm over the batch of the gradient with respect to a part's output.
        log10_mean_square: log10 of the mean square of that output.
        correlation: its cosine at two examples, the mean over pairs.
        dZ_cosine: the cosine of the gradients of two examples with respect to that output, the mean over pairs.
    """

    log10_dZ: np.ndarray
    log10_mean_square: np.ndarray
    correlation: np.ndarray
    dZ_cosine: np.ndarray


STREAM = tuple(f"stream_{name}" for name in Stream._fields)
READINGS = (*NORMS, *OTHERS, "dZ_cosine", *STREAM, "log10_dX")
"""All that can be read off a network."""


@dataclass(frozen=True, eq=False)
class Flow:
    """What was measured in random networks of one architecture: numpy arrays (scales, seeds, L) over layers 1..L.

    The layers are those with a weight matrix: dense layers, embeddings, unembeddings (see `GradientNorms`).

    Attributes:
        log10: log10 of the norms of dZ, dA, dW and db over the batch, as `GradientNorms`.
        scales: the factors on the weights, (scales,).
        log10_mean_square: log10 of the mean square of the outputs Z_l.
        correlation: the cosine of Z_l at two examples, the mean over pairs.
        saturated: the fraction of entries of Z_l with |g'| below a tenth of the largest |g'|; for relu those with
            z <= 0. NaN where no activation follows.
        dead: the fraction of units that are so at every example.
        cosine: the cosine of the gradients dW_l of two examples, the mean over pairs.
        noise: tr Cov(g) / |mean g|^2 of the examples' gradients g of W_l, the batch at which noise and signal are
            equal; McCandlish, Kaplan, Amodei et al. (2018).
        dZ_cosine: the cosine of dZ_l at two examples, the mean over pairs: with a common cotangent that of gradients
            which shatter; Balduzzi et al. (2017). None in a grid, whose cotangents are independent.
        stream: readings along the stream; None in a grid, whose networks are plain.
        log10_dX: log10 of the norm of the gradient with respect to the input, (scales, seeds), NaN where that are
            tokens; None in a grid.
        log10_singular: log10 of the singular values of the input-output Jacobian at the first example, falling,
            (scales, seeds, min(n_0, n_L)); None where they were not asked for.
        plain: a run of equal plain layers, which has a phase and a fixed point, or why there is none.
        stack: what mean-field theory needs to know of the whole network, or why it says nothing.
        layers: the path of each layer, "blocks[3].q"; empty in a grid.
        parts: the path of each part of the stream.
        branches: whether the network has lines beside one another, so that a verdict is one on the stream.
    """

    log10: GradientNorms
    scales: np.ndarray
    log10_mean_square: np.ndarray
    correlation: np.ndarray
    saturated: np.ndarray
    dead: np.ndarray
    cosine: np.ndarray
    noise: np.ndarray
    dZ_cosine: np.ndarray | None = None
    stream: Stream | None = None
    log10_dX: np.ndarray | None = None
    log10_singular: np.ndarray | None = None
    plain: PlainRun | str = "the network was not described"
    stack: Stack | str = "the network was not described"
    layers: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    branches: bool = False

    def values(self, quantity: str) -> np.ndarray:
        """One quantity, (scales, seeds, L); norms as log10.

        Args:
            quantity: "dZ", "dA", "dW" or "db", or another attribute; "stream_log10_dZ" and the like along the stream,
                (scales, seeds, parts).

        Raises:
            FbpError: there is no such quantity.
        """
        if quantity in NORMS:
            return getattr(self.log10, quantity)
        found = getattr(self, quantity, None) if quantity in (*OTHERS, "dZ_cosine") else None
        if self.stream is not None and quantity in STREAM:
            found = getattr(self.stream, quantity.removeprefix("stream_"))
        if found is None:
            raise unknown_name("quantity of a flow", quantity, (*NORMS, *OTHERS, "dZ_cosine", *STREAM))
        return found

    def quantiles(self, quantity: str = "dZ", scale: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The 10 %, 50 % and 90 % quantiles over seeds, each (L,); of log10 norms for the four norms.

        Args:
            quantity: as for `values`.
            scale: which of `scales`.
        """
        # No interpolation: between minus infinity, a norm of zero, and a number there is nothing.
        low, median, high = np.quantile(self.values(quantity)[scale], [0.1, 0.5, 0.9], axis=0, method="inverted_cdf")
        return low, median, high

    def interval(self, quantity: str = "dZ", scale: int = 0, mean: Mean = "log") -> Interval:
        """The mean over seeds with its 95 % confidence interval by Student's t, each (L,).

        Args:
            quantity: as for `values`.
            scale: which of `scales`.
            mean: for norms and mean squares, "log" for the mean of log10, or "arithmetic" for log10 of the (root)
                mean (square), which mean-field theory predicts. Networks of depth L and width n scatter by about
                exp(sqrt(kappa L / n)), so that the arithmetic mean of a deep, narrow one needs very many seeds.

        Raises:
            FbpError: there is no such quantity or mean.
        """
        x = self.values(quantity)[scale]
        if quantity in (*NORMS, "stream_log10_dZ"):
            return interval_of_logs(x, mean, power=2)
        square = quantity.removeprefix("stream_") == "log10_mean_square"
        return interval_of_logs(x, mean, power=1) if square else confidence_interval(x)

    def verdict(self, scale: int = 0) -> Verdict:
        """How the norm of dZ changes over the hidden layers: those of equal width, else all but the last.

        In a network with branches, over the parts of the stream but the last.

        Args:
            scale: which of `scales`.
        """
        return verdict(self._hidden(scale), self._step)

    def diagnosis(self, scale: int = 0) -> Diagnosis:
        """The verdict beside mean-field theory, as a sentence by `str`.

        Args:
            scale: which of `scales`.
        """
        prediction, note = self._predict(scale)
        advised = self._predict_advised(scale, prediction)
        first = self.plain.start + 1 if isinstance(self.plain, PlainRun) else 1
        found = diagnose(self._hidden(scale), prediction, note, self._step, advised, first)
        if found.theory is not None or isinstance(self.stack, str):
            return found
        # Residual and normalized networks have a rate by theory, but no phase.
        stack = self._predict_stack(scale)
        if isinstance(stack, str):
            return replace(found, note=stack)
        rate = geometric_mean(self._factors(scale))
        return found if np.isnan(rate) else replace(found, theory=rate, note="")

    def expected(self, scale: int = 0, quantity: str = "dZ") -> np.ndarray:
        """What mean-field theory predicts for a curve of plain, residual and normalized networks.

        It starts from what was measured at the ends: the mean square and the correlation of the first layer's outputs,
        and at the last layer (the one before it where the last is narrower) the median of log10 ||dZ||. Batch
        normalization is that of the batch that was measured, its examples taken as equally alike. In plain networks
        the widths count as well, by the gradient along Z (`fbp.theory.propagation`).

        Args:
            scale: which of `scales`.
            quantity: "dZ", "log10_mean_square", "correlation" or "dZ_cosine", or "stream_log10_dZ",
                "stream_log10_mean_square", "stream_correlation" or "stream_dZ_cosine".

        Returns:
            (L,) or (parts,); NaN where no theory holds (`stack` or the note of the diagnosis says why). With Gaussian
            weights and width n, the mean of ln ||dZ|| of one example is lower by about `log_variance` / 4n a layer.

        Raises:
            FbpError: theory has no such quantity.
        """
        known = ("dZ", "log10_mean_square", "correlation", "dZ_cosine")
        if quantity not in (*known, *STREAM):
            raise unknown_name("quantity of theory", quantity, (*known, *STREAM))
        line = np.full(self.values(quantity).shape[2], np.nan)
        kind = quantity.removeprefix("stream_").replace("log10_dZ", "dZ")
        prediction = self._predict_stack(scale, kind in ("correlation", "dZ_cosine"))
        if isinstance(prediction, str):
            return line
        stream = quantity in STREAM
        points = prediction.parts if stream else prediction.layers
        found = {
            "dZ": points.log10_dZ,
            "log10_mean_square": points.log10_mean_square,
            "correlation": points.correlation,
            "dZ_cosine": points.dZ_cosine,
        }[kind]
        line[len(line) - len(found) :] = found
        return line + self._anchor(scale, prediction) if kind == "dZ" else line

    def records(self, **labels: Any) -> Iterator[dict[str, Any]]:
        """Tidy rows: one for each scale, seed and layer, with its path, and the given labels in front.

        Args:
            labels: further columns, the same in every row.
        """
        columns = {f"log10_norm_{name}": self.values(name) for name in NORMS}
        columns |= {name: self.values(name) for name in OTHERS}
        columns |= {} if self.dZ_cosine is None else {"dZ_cosine": self.dZ_cosine}
        yield from self._rows("layer", self.layers, columns, labels)

    def stream_records(self, **labels: Any) -> Iterator[dict[str, Any]]:
        """Tidy rows: one for each scale, seed and part of the stream, with its path, and the given labels in front.

        Args:
            labels: further columns, the same in every row.
        """
        if self.stream is not None:
            log10_norm_dZ, *others = self.stream
            columns = dict(zip(Stream._fields[1:], others, strict=True))
            yield from self._rows("part", self.parts, {"log10_norm_dZ": log10_norm_dZ} | columns, labels)

    def _rows(
        self, place: str, paths: tuple[str, ...], columns: dict[str, np.ndarray], labels: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        for s, seed, i in np.ndindex(next(iter(columns.values())).shape):
            measured = {name: float(x[s, seed, i]) for name, x in columns.items()}
            path = {"path": paths[i]} if paths else {}
            yield {**labels, "scale": float(self.scales[s]), "seed": seed, place: i + 1, **path, **measured}

    def _along(self, quantity: str, scale: int) -> np.ndarray:
        """A quantity along the stream, which in a plain network is that of the layers, (seeds, parts)."""
        if self.stream is not None:
            return np.asarray(getattr(self.stream, quantity)[scale], np.float64)
        return np.asarray(self.values({"log10_dZ": "dZ"}.get(quantity, quantity))[scale], np.float64)

    def _predict_stack(self, scale: int, correlations: bool = False) -> StackPrediction | str:
        if isinstance(self.stack, str):
            return self.stack
        q = self.stack.q_first or float(np.mean(10.0 ** self._along("log10_mean_square", scale)[:, 0]))
        c = cosine = None
        if correlations or self.stack.mixes_examples:
            c = float(np.mean(self._along("correlation", scale)[:, 0]))
            cosine = 0.0 if self.stream is None else float(np.mean(self._along("dZ_cosine", scale)[:, -1]))
        return predict_stack(self.stack, float(self.scales[scale]), q, c, cosine)

    def _anchor(self, scale: int, prediction: StackPrediction) -> float:
        """The median of log10 ||dZ|| where theory has 0."""
        assert isinstance(self.stack, Stack)
        last = self.stack.anchor
        median = np.quantile(self._along("log10_dZ", scale)[:, last], 0.5, method="inverted_cdf")
        return float(median - prediction.parts.log10_dZ[last])

    def _predict(self, scale: int) -> tuple[Prediction | None, str]:
        run = self.plain
        if isinstance(run, str):
            return None, run
        if run.stop - run.start < 2:
            return None, "no theory: one layer"
        first = self._first_mean_square(scale)
        prediction, note = predict(run, float(self.scales[scale]), first, run.stop - run.start)
        factors = self._factors(scale)
        if prediction is not None and not np.isnan(factors).any():
            prediction = prediction._replace(factors=factors)
        return prediction, note

    def _predict_advised(self, scale: int, prediction: Prediction | None) -> Prediction | None:
        """What theory says of the same layers with the sigma_w that it calls critical."""
        run = self.plain
        advised = None if prediction is None else prediction.field.critical_sigma_w
        sigma_w = run.sigma_w * float(self.scales[scale]) if isinstance(run, PlainRun) else 0.0
        if not isinstance(run, PlainRun) or advised is None or not sigma_w:
            return None
        first = run.q_first if run.q_first is not None else self._first_mean_square(scale)
        q = run.sigma_b**2 + max(first - run.sigma_b**2, 0.0) * (advised / sigma_w) ** 2
        return predict(run._replace(sigma_w=advised, q_first=q), 1.0, q, run.stop - run.start)[0]

    def _first_mean_square(self, scale: int) -> float:
        assert isinstance(self.plain, PlainRun)
        return float(np.mean(10.0 ** self.log10_mean_square[scale][:, self.plain.start].astype(np.float64)))

    def _factors(self, scale: int) -> np.ndarray:
        """What theory says of ||dZ_l||^2 / ||dZ_{l+1}||^2 along the hidden layers, the widths included."""
        line = self._hidden_columns(self.expected(scale, "stream_log10_dZ" if self.branches else "dZ")[None])[0]
        with np.errstate(invalid="ignore"):
            # A gradient that has become zero stays zero.
            return np.where(np.isneginf(line[:-1]), 0.0, 10 ** (2 * (line[:-1] - line[1:])))

    @property
    def _step(self) -> str:
        return "part of the stream" if self.branches else "layer"

    def _hidden(self, scale: int) -> np.ndarray:
        along = self.stream.log10_dZ if self.stream is not None and self.branches else self.log10.dZ
        lengths = np.asarray(self.log10_mean_square[scale])
        # Behind an infinite value a slope may be 0, and a gradient look as if it vanished. All NaN: not read.
        finite = (lengths < np.inf).all(axis=1, keepdims=True) | np.isnan(lengths).all()
        return self._hidden_columns(np.where(finite, along[scale], np.nan))

    def _hidden_columns(self, curves: np.ndarray) -> np.ndarray:
        if isinstance(self.plain, PlainRun):
            return curves[:, self.plain.start : self.plain.stop]
        return curves[:, :-1] if curves.shape[1] > 2 else curves
