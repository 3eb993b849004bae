"""What `fbp flow` measures: a plan from the options that were given."""

from collections.abc import Mapping
from typing import Any

from fbp.config import integers, names, unused_option
from fbp.errors import FbpError
from fbp.flow import Plan
from fbp.studies.flow_grid import QUICK
from fbp.studies.flow_networks import AnyPlan, PerceptronPlan, TransformerPlan


def make_plan(
    network: str,
    perceptron: Mapping[str, Any],
    transformer: Mapping[str, Any],
    shared: Mapping[str, Any],
    seed: int,
    quick: bool,
    resume: bool,
) -> AnyPlan:
    """The plan of a command.

    Args:
        network: "mlp" or "gpt".
        perceptron: options that only perceptrons have, None where they were not given.
        transformer: those that only transformers have.
        shared: depth, width and seeds.
        seed: of all randomness.
        quick: whether sizes that were not given are small.
        resume: whether a grid is to go on, which only that of plain perceptrons does.

    Raises:
        FbpError: an option belongs to another kind of network, or does not fit.
    """
    for name, value in (transformer if network == "mlp" else perceptron).items():
        if value is not None:
            raise unused_option(name, network, value if value is not True else "it")
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
        plan = PerceptronPlan(plain, norm, residual) if residual or norm != "none" else plain
    if resume and not isinstance(plan, Plan):
        raise FbpError(
            "--resume must be given for plain perceptrons, whose grids are kept as they grow, got it with "
            f"{'--network gpt' if network == 'gpt' else '--residual' if perceptron['residual'] else '--norm'}; "
            "leave it out"
        )
    return plan


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
