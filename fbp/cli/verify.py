"""What `fbp verify` does: the built-in networks, the injected faults, a target by its name."""

import json

from rich.console import Console

from fbp.cli.builtin import GALLERY, Builtin, builtin
from fbp.cli.loading import arguments, load
from fbp.errors import FbpError
from fbp.terminal import show_progress
from fbp.verify.conform.report import conformance
from fbp.verify.gradients import gradient
from fbp.verify.mutations import mutate
from fbp.verify.networks import network
from fbp.verify.operations import vjp
from fbp.verify.opinion import EXIT_STATUS, worst
from fbp.verify.reference import Argnums
from fbp.verify.result import Printable, Verification
from fbp.verify.tables import builtin_table


def verify_builtin(seed: int, as_json: bool) -> int:
    """Verify the built-in networks, one row each.

    Args:
        seed: of the numbers and the judges.
        as_json: print JSON instead of the table.

    Returns:
        The exit status.
    """
    found: dict[str, Verification] = {}
    with show_progress() as progress:
        for each in builtin():
            progress(each.name)
            found[each.name] = network(each.net, each.loss, *each.arguments(seed), seed=seed)
    verdict = worst(one.verdict for one in found.values())
    if as_json:
        rows = {name: one.to_dict() for name, one in found.items()}
        print(json.dumps({"verdict": verdict, "networks": rows}, indent=2, allow_nan=False))
        return EXIT_STATUS[verdict]
    Console().print(builtin_table(found))
    return EXIT_STATUS[verdict]


def verify_mutants(seed: int, as_json: bool) -> int:
    """Inject every canonical fault into the network that has every kind of layer.

    Args:
        seed: of the numbers and the judges.
        as_json: print JSON instead of the table.

    Returns:
        The exit status: 1 where a mutant with a wrong gradient survives.
    """
    gallery = Builtin("every kind of layer", GALLERY, keyed=True)
    with show_progress() as progress:
        found = mutate(gallery.net, gallery.loss, *gallery.arguments(seed), seed=seed, progress=progress)
    _show(found, as_json)
    return found.exit_status


def verify_target(
    target: str,
    loss: str | None,
    args: str | None,
    reference: str | None,
    argnums: Argnums,
    has_value: bool,
    seed: int,
    as_json: bool,
) -> int:
    """Verify a gradient function or an operation by its name.

    Args:
        target: package.module:name.
        loss: of a gradient function, its loss.
        args: a tuple of arguments, or a function that gives one.
        reference: of an operation, the same function in plain JAX.
        argnums: of a gradient function, which arguments are differentiated.
        has_value: whether the gradient function gives (value, gradient).
        seed: of the judges.
        as_json: print JSON instead of tables.

    Returns:
        The exit status.

    Raises:
        FbpError: something is missing, cannot be imported or cannot be called.
    """
    if args is None:
        raise FbpError(f"{target} is called with arguments; received no --args; say --args package.module:make_args")
    if loss is not None and reference is not None:
        raise FbpError("--loss is for a gradient function, --reference for an operation; received both; give one")
    function, values = load(target), arguments(args)
    if not callable(function):
        raise FbpError(f"{target} is a function; received {type(function).__name__}")
    if loss is not None:
        found = gradient(function, load(loss), *values, argnums=argnums, has_value=has_value, seed=seed)
        _show(found, as_json)
        return found.exit_status
    rule = vjp(function, *values, reference=None if reference is None else load(reference), seed=seed)
    kit = conformance(function, *values)
    if as_json:
        print(json.dumps({"gradient": rule.to_dict(), "conformance": kit.to_dict()}, indent=2, allow_nan=False))
    else:
        Console().print(rule, kit)
    return 1 if kit.verdict == "FAIL" else rule.exit_status


def _show(found: Printable, as_json: bool) -> None:
    print(found.to_json()) if as_json else Console().print(found)
