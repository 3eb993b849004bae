"""What `fbp verify` does: the built-in networks, the injected faults, a target by its name."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console, Group
from rich.text import Text

from fbp.cli.builtin import GALLERIES, list_networks
from fbp.cli.loading import load, load_arguments
from fbp.errors import FbpError
from fbp.serialize import to_json
from fbp.streams import print_result
from fbp.terminal import show_progress
from fbp.verify import MutationReport, Verification, conformance, gradient, mutate, network, vjp
from fbp.verify.gradients import has_own_rule
from fbp.verify.result import EXIT_STATUS, worst
from fbp.verify.table import Printable, make_table, paint

FORGOTTEN_AFTER = 20
"""Mutants after which compiled programs are dropped."""


def verify_builtin(seed: int, as_json: bool) -> int:
    """Verify the built-in networks, one row each.

    Args:
        seed: of the numbers and the judges.
        as_json: print JSON instead of the table.

    Returns:
        The exit status.
    """
    results: dict[str, Verification] = {}
    with show_progress() as progress:
        for each in list_networks():
            progress(each.name)
            results[each.name] = network(each.net, each.loss, *each.arguments(seed))
    verdict = worst(each.verdict for each in results.values())
    if as_json:
        networks = {name: each.to_dict() for name, each in results.items()}
        print_result(to_json({"verdict": verdict, "networks": networks}))
    else:
        Console().print(_builtin_table(results))
    return EXIT_STATUS[verdict]


def _builtin_table(results: Mapping[str, Verification]) -> Group:
    """One row per network, those in full that do not pass, and the verdict."""
    numbers = ("leaves", "equations", "error", "in eps")
    rows = ((name, *_worst_numbers(each), paint(each.verdict, each.verdict)) for name, each in results.items())
    table = make_table(
        "built-in networks, worst leaf against jax.grad in float64",
        ("network", *numbers, "verdict"),
        rows,
        numbers=numbers,
    )
    failed = [part for name, each in results.items() if each.verdict != "PASS" for part in (Text(f"\n{name}"), each)]
    verdict = worst(each.verdict for each in results.values())
    passed = sum(each.verdict == "PASS" for each in results.values())
    return Group(table, *failed, paint(f"{verdict}: {passed} of {len(results)} networks pass", verdict))


def _worst_numbers(result: Verification) -> tuple[str, ...]:
    leaves = [leaf for leaf in result.leaves if leaf.difference is not None and not leaf.is_zero]
    return (
        *(f"{sum(each.verdict == 'PASS' for each in some)}/{len(some)}" for some in (result.leaves, result.equations)),
        f"{max(leaf.difference.relative_error for leaf in leaves if leaf.difference):.1e}",
        f"{max(leaf.epsilons for leaf in leaves):.2g}",
    )


def verify_mutants(seed: int, as_json: bool) -> int:
    """Inject every canonical fault into networks that have every kind of layer.

    Args:
        seed: of the numbers and the judges.
        as_json: print JSON instead of the table.

    Returns:
        The exit status: 1 where a mutant with a wrong gradient survives.
    """
    reports, count = [], 0

    def begin_mutant(line: str) -> None:
        nonlocal count
        count += 1
        if count % FORGOTTEN_AFTER == 0:
            # The programs of a mutant serve no other, and each takes memory maps, of which a process has so many.
            jax.clear_caches()
        progress(line)

    with show_progress() as progress:
        for each in GALLERIES:
            reports.append(mutate(each.net, each.loss, *each.arguments(seed), progress=begin_mutant))
    report = MutationReport(tuple(mutant for each in reports for mutant in each.mutants))
    show(report, as_json)
    return report.exit_status


def parse_tolerance(text: str) -> float | dict[str, float]:
    """A relative error for all leaves, or by path: "1e-3", or "['W']=1e-3,['b']=1e-2".

    Raises:
        FbpError: it has another form.
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = (each.rpartition("=") for each in re.split(r",(?![^\[]*\])", text))
        return {path.strip(): float(number) for path, _, number in pairs}
    except ValueError as error:
        raise FbpError(
            f"--tolerance must be a number, or numbers by path, got {text!r}; use e.g. 1e-3, or \"['W']=1e-3\""
        ) from error


def verify_target(
    target: str,
    loss: str | None,
    args: str | None,
    reference: str | None,
    options: Mapping[str, Any],
    seed: int,
    as_json: bool,
) -> int:
    """Verify a gradient function or an operation by its name.

    Args:
        target: package.module:name.
        loss: of a gradient function, its loss.
        args: a tuple of arguments, or a function that gives one.
        reference: of an operation, the same function in plain JAX.
        options: those of `fbp.verify.gradient`, or of `fbp.verify.vjp` without a loss.
        seed: of the judges.
        as_json: print JSON instead of tables.

    Returns:
        The exit status.

    Raises:
        FbpError: something is missing, cannot be imported or cannot be called.
    """
    if args is None:
        raise FbpError(f"--args must name the arguments of {target}, got none; give --args package.module:make_args")
    if loss is not None and reference is not None:
        raise FbpError(
            "a target must have --loss (a gradient function) or --reference (an operation), got both; give one"
        )
    function, values, key = load(target), load_arguments(args), jax.random.key(seed)
    if not callable(function):
        raise FbpError(f"{target} must be a function, got {type(function).__name__}; name a function of the module")
    if loss is not None:
        loss_function = load(loss)
        with show_progress() as progress:
            verification = gradient(function, loss_function, *values, key=key, progress=progress, **options)
        show(verification, as_json)
        return verification.exit_status
    plain = None if reference is None else load(reference)
    with show_progress() as progress:
        if plain is None and not has_own_rule(function, *values):
            raise FbpError(
                "a target must come with --loss (a gradient function) or --reference (an operation), or have a rule of "
                f"its own (jax.custom_vjp), got {target} alone; name its loss by --loss package.module:loss"
            )
        rule = vjp(function, *values, reference=plain, key=key, progress=progress, **options)
        progress(f"conformance of {target}")
        report = conformance(function, *values)
    if as_json:
        print_result(to_json({"gradient": rule.to_dict(), "conformance": report.to_dict()}))
    else:
        Console().print(rule, report)
    return 1 if report.verdict == "FAIL" else rule.exit_status


def verify_replay(path: str, as_json: bool) -> int:
    """Look again at a step of a training that went wrong.

    Args:
        path: the file that the training has left.
        as_json: print JSON instead of tables.

    Returns:
        The exit status.
    """
    from fbp.training import find_nonfinite, load_replay

    replay = load_replay(path)
    where = find_nonfinite(replay.problem)
    result = network(*replay.problem)
    if as_json:
        told = {"step": replay.step, "reason": replay.reason, "first_not_finite": where}
        print_result(to_json({**told, "verification": result.to_dict()}))
    else:
        Console().print(Text(f"step {replay.step}: {replay.reason}; first without finite values: {where}"), result)
    return result.exit_status


def show(result: Printable, as_json: bool) -> None:
    """Print a result, as JSON or as its table."""
    print_result(result.to_json()) if as_json else Console().print(result)
