"""What `fbp flow` measures: a plan from the options that were given."""

from collections.abc import Mapping
from typing import Any

from fbp.config import integers, names, unused_option
from fbp.errors import FbpError
from fbp.flow import Plan
from fbp.studies.flow_grid import QUICK
from fbp.studies.flow_networks import BY_DEPTH, AnyPlan, PerceptronPlan, TransformerPlan


def make_plan(
    network: str,
    perceptron: Mapping[str, Any],
    transformer: Mapping[str, Any],
    shared: Mapping[str, Any],
    seed: int,
    quick: bool,
) -> AnyPlan:
    """The plan of a command.

    Args:
        network: "mlp" or "gpt".
        perceptron: options that only perceptrons have, None where they were not given.
        transformer: those that only transformers have.
        shared: depth, width and seeds.
        seed: of all randomness.
        quick: whether sizes that were not given are small.

    Raises:
        FbpError: an option belongs to another kind of network, or does not fit.
    """
    for name, value in (transformer if network == "mlp" else perceptron).items():
        if value is not None:
            raise unused_option(name.replace("_", "-"), network, value if value is not True else "it")
    typed = {"width": shared["width"], "seeds": shared["seeds"]}
    typed["depths"] = shared["depth"] and integers("depth", shared["depth"])
    sizes = (QUICK[network] if quick else {}) | _given(typed)
    if network == "gpt":
        styles: dict[str, Any] = {"styles": tuple(names(transformer["style"]))} if transformer["style"] else {}
        rest = {name: value for name, value in transformer.items() if name != "style"}
        plan: AnyPlan = TransformerPlan(seed=seed, **sizes, **styles, **_given(rest))
    else:
        lists = {"activations": perceptron["activation"], "initializers": perceptron["init"]}
        chosen: dict[str, Any] = {name: tuple(names(text)) for name, text in lists.items() if text}
        plain = Plan(seed=seed, bias=perceptron["bias"], **sizes, **chosen)
        norm, residual = perceptron["norm"] or "none", bool(perceptron["residual"])
        scale = _read_scale(perceptron["residual_scale"], residual)
        plan = PerceptronPlan(plain, norm, residual, scale) if residual or norm != "none" else plain
    return plan


def _read_scale(text: str | None, residual: bool) -> Any:
    if text is None:
        return 1.0
    if not residual:
        raise FbpError(f"--residual-scale must come with --residual, got {text} alone; add --residual")
    try:
        return text if text == BY_DEPTH else float(text)
    except ValueError:
        raise FbpError(f"--residual-scale must be a number or {BY_DEPTH}, got {text!r}; use e.g. 0.1") from None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
