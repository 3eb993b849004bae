"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from fbp.cli.data import load_examples, load_fitting
from fbp.cli.training import Network, Transformer, evaluate, predict, sample, summary, train
from fbp.config import (
    COMPARISON,
    SHARED,
    Integer,
    NetworkConfig,
    PictureConfig,
    TransformerConfig,
    check_unused,
)
from fbp.errors import FbpError, check_count, check_seed
from fbp.streams import reserve_stdout

app = App(
    name="fbp",
    help="Backpropagation written by hand in JAX, proved against autodiff, and put to work.",
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    help_epilogue="Every command takes --debug, which shows the traceback of an error.",
    # Markdown would cost a parser at every start.
    help_format="plaintext",
    result_action="return_value",
    # `fbp.terminal.run` says what an interruption leaves.
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(help="Install the completion of commands and options in this shell.")

_shown_as = lambda text: Parameter(show_default=lambda _: text)
Picture = Annotated[PictureConfig, Parameter(name="*", group=Group("Network, without a target", sort_key=1))]
Data = Annotated[str | None, _shown_as("digits")]
_DEFAULT, _TRANSFORMER, _PICTURE = NetworkConfig(), TransformerConfig(), PictureConfig()
_SEQUENCES = 8
"""Sequences in a batch of tokens, where nobody says."""


@app.command
def report(*, out: Path = Path("fbp-report"), data: Data = None, seed: Integer = 0) -> int:
    """Compare, train and measure, and write one report.

    Parameters
    ----------
    out
        The folder to write; an older report in it is replaced.
    data
        A name (digits, mnist, ...), a file or a folder.
    seed
        Seed of all randomness.
    """
    check_seed(seed)
    _DEFAULT.check_memory(COMPARISON, 128)
    from fbp.report import check_target, describe_target, write
    from fbp.studies.frame import announce
    from fbp.studies.overview import overview
    from fbp.terminal import explain_interruption, show_progress

    check_target(out)
    dataset = load_examples(data)
    _DEFAULT.check(dataset.train_X.shape[1], dataset.classes)
    with explain_interruption(describe_target(out)):
        with show_progress() as progress:
            report = overview(dataset, seed, progress)
            write(report, out)
        announce(report, out)
    return 0


@app.command
def flow(
    *,
    network: Literal["mlp", "gpt"] = "mlp",
    depth: Annotated[str | None, _shown_as("10,50,200; gpt: 2,6,12")] = None,
    activation: Annotated[str | None, _shown_as("tanh,relu,gelu")] = None,
    init: Annotated[str | None, _shown_as("he_normal,glorot_normal,orthogonal")] = None,
    norm: Annotated[str | None, _shown_as("none")] = None,
    residual: bool = False,
    residual_scale: Annotated[str | None, _shown_as("1")] = None,
    bias: float | None = None,
    style: Annotated[str | None, _shown_as("gpt2")] = None,
    heads: Annotated[Integer | None, _shown_as("4")] = None,
    length: Annotated[Integer | None, _shown_as("32")] = None,
    vocabulary: Annotated[Integer | None, _shown_as("256")] = None,
    width: Annotated[Integer | None, _shown_as("256; gpt: 64")] = None,
    seeds: Annotated[Integer | None, _shown_as("20")] = None,
    out: Path = Path("flow"),
    resume: bool = False,
    seed: Integer = 0,
    quick: bool = False,
) -> int:
    """Measure how gradients shrink or grow from layer to layer, beside mean-field theory, and write a report.

    Parameters
    ----------
    network
        Multilayer perceptrons, or transformers that read random tokens.
    depth
        Numbers of dense layers, or of blocks, with commas between them.
    activation
        Activation functions.
    init
        Initializers: he_normal, glorot_normal, orthogonal, mean_field(1.3,0.2), ...
    norm
        Normalization before each activation: none, batch, layer or rms.
    residual
        Put a residual connection around each layer but the first.
    residual_scale
        Factor on what a layer adds to the residual stream: a number, or 1/sqrt(depth).
    bias
        Standard deviation of the biases, in place of the initializers' own.
    style
        Of transformers: gpt2, modern.
    heads
        Heads of attention, a divisor of the width.
    length
        Tokens of a sequence.
    vocabulary
        Different tokens.
    width
        Units a layer, or entries of a token's vector.
    seeds
        Random networks of each kind.
    out
        The folder to write; an older report in it is replaced.
    resume
        Go on with the grid that was stopped in this folder.
    seed
        Seed of all randomness.
    quick
        A small grid, for a first look: depths 5,10 (gpt: 2,4), width 64 (32) and 8 seeds, where they are not given.
    """
    check_seed(seed)
    from fbp.cli.flow import make_plan
    from fbp.studies.flow_grid import describe_grid, run_flow
    from fbp.studies.frame import announce
    from fbp.terminal import explain_interruption, show_progress

    perceptron = {"activation": activation, "init": init, "norm": norm, "bias": bias}
    perceptron |= {"residual": residual or None, "residual_scale": residual_scale}
    transformer = {"style": style, "heads": heads, "length": length, "vocabulary": vocabulary}
    shared = {"depth": depth, "width": width, "seeds": seeds}
    plan = make_plan(network, perceptron, transformer, shared, seed, quick)
    with explain_interruption(describe_grid(out, resume)):
        with show_progress() as progress:
            report = run_flow(plan, out, resume, progress)
        announce(report, out)
    return 0


@app.command
def rerun(folder: Path, /) -> int:
    """Repeat the run that wrote a report, from its manifest, and say whether the bits agree.

    Exit status 0: every bit of the data and every result is the same; 1: something differs.

    Parameters
    ----------
    folder
        The folder of a report.
    """
    from fbp.report import rerun

    repetition = rerun(folder)
    print(repetition)
    return 0 if repetition.agrees else 1


@app.command
def compare(
    *,
    network: Literal["mlp", "gpt"] = "mlp",
    config: Network = _DEFAULT,
    transformer: Transformer = _TRANSFORMER,
    batch_size: Annotated[Integer | None, _shown_as("128 digits, 8 sequences")] = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    data: Data = None,
    json: bool = False,
) -> int:
    """Compare the hand-written gradient with jax.grad, with fbp.graph and with float64, leaf by leaf, and their costs.

    Exit status 0: all leaves pass; 1: one fails; 3: none fails, but one is inconclusive.

    Parameters
    ----------
    network
        A multilayer perceptron on digits, or a transformer on random tokens.
    batch_size
        How many examples the gradient is taken over; all where there are fewer.
    dtype
        Precision of parameters and inputs.
    data
        A name (digits, mnist, ...), a file or a folder.
    json
        Print JSON instead of the table.
    """
    if network == "gpt":
        check_unused(network, config, shared=SHARED)
        if data is not None:
            raise FbpError(f"--data must not be given with --network gpt, got {data}; its tokens are random")
        examples = _SEQUENCES if batch_size is None else batch_size
        check_count("--batch-size", examples)
        check_seed(config.seed)
        net = transformer.network(config.init, config.dropout)
        transformer.check_memory(COMPARISON, examples)
        dataset = None
    else:
        check_unused(network, transformer)
        examples = 128 if batch_size is None else batch_size
        dataset = load_fitting(data, config, COMPARISON, examples)
        net = config.network()
    import jax

    from fbp.cli.verify import show
    from fbp.data import scale
    from fbp.precision import cast
    from fbp.verify import compare

    with reserve_stdout(json), jax.enable_x64(dtype == "float64"):
        if dataset is None:
            params, _ = net.init(jax.random.key(config.seed))
            X, Y = transformer.batch(examples, config.seed)
        else:
            X, Y = (jax.numpy.asarray(scale(x[:examples])) for x in (dataset.train_X, dataset.train_Y))
            params, Y = config.parameters(X), config.targets(Y)
        key = jax.random.key(config.seed) if config.dropout else None
        found = compare(net, config.objective(), *cast((params, X, Y), dtype), key=key)
        show(found, json)
    return found.exit_status


@app.command
def verify(
    target: str | None = None,
    /,
    *,
    loss: str | None = None,
    args: str | None = None,
    reference: str | None = None,
    argnums: tuple[int, ...] = (0,),
    has_value: bool = False,
    directions: int = 2,
    tolerance: str = "0",
    nondeterminism: float = 0.0,
    batched: bool = False,
    forward: bool = False,
    time_limit: float | None = None,
    mutate: bool = False,
    seed: Integer = 0,
    json: bool = False,
) -> int:
    """Verify a hand-written gradient by three judges: autodiff in float64, finite differences, the adjoint identity.

    Without a target the built-in networks are verified, equation by equation. A target is a gradient function, with
    --loss and --args, or an operation with a rule of its own (jax.custom_vjp, jax.custom_jvp) or with --reference, and
    --args. All are named package.module:name; modules in the current folder are found.

    Exit status 0: all pass; 1: one fails; 2: misuse; 3: none fails, but one is inconclusive.

    Parameters
    ----------
    target
        The gradient function, the operation, or the file of a step that `fbp train` has left.
    loss
        The scalar loss that the target is the gradient of, called with the same arguments.
    args
        A tuple of arguments, or a function that gives one.
    reference
        For an operation: the same function in plain JAX; without it its own primal.
    argnums
        For a gradient function: which arguments are differentiated.
    has_value
        The gradient function gives (value, gradient).
    directions
        Random directions in each leaf, along which the loss is differentiated by differences and in forward mode.
    tolerance
        A relative error that is allowed besides rounding, for all leaves, or by path: "['W']=1e-3,['b']=1e-2".
    nondeterminism
        The relative difference between two calls that is allowed.
    batched
        The gradient must be the same under jax.vmap.
    forward
        For an operation: its forward mode (jax.jvp) is judged, too.
    time_limit
        Seconds after which the leaves that are left are inconclusive.
    mutate
        Inject canonical faults into the built-in network's backward pass, and say which judge finds which.
    seed
        Seed of the directions and of the perturbations by which rounding is measured.
    json
        Print JSON instead of tables.
    """
    check_seed(seed)
    from fbp.cli.verify import parse_tolerance, verify_builtin, verify_mutants, verify_replay, verify_target

    if target is not None and target.endswith(".safetensors"):
        with reserve_stdout(json):
            return verify_replay(target, json)
    if target is None:
        given = [name for name, value in (("--loss", loss), ("--args", args), ("--reference", reference)) if value]
        if given:
            raise FbpError(f"{given[0]} must come with a target, got none; e.g. fbp verify my_rules:my_grad ...")
    elif mutate:
        raise FbpError(f"--mutate must stand without a target, got {target}; leave it out")
    options = {
        "directions": directions,
        "tolerance": parse_tolerance(tolerance),
        "nondeterminism": nondeterminism,
        "batched": batched,
        "time_limit": time_limit,
    }
    if loss is not None:
        if forward:
            raise FbpError("--forward must come with an operation, got --loss; leave one of them out")
        options |= {"argnums": argnums[0] if len(argnums) == 1 else argnums, "has_value": has_value}
    elif has_value or argnums != (0,):
        raise FbpError("--argnums and --has-value must come with --loss, got an operation; leave them out")
    else:
        options |= {"forward": forward}
    with reserve_stdout(json):
        if target is None:
            return verify_mutants(seed, json) if mutate else verify_builtin(seed, json)
        return verify_target(target, loss, args, reference, options, seed, json)


@app.command
def graph(
    target: str | None = None,
    /,
    *,
    args: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    argnums: tuple[int, ...] | None = None,
    config: Picture = _PICTURE,
    batch_size: Integer = 1,
    fallback: bool = False,
    out: Path = Path("graph.html"),
) -> int:
    """Draw the computation graph of a function or a network, with every value and every gradient in it.

    A target is a JAX function that gives one real number, named package.module:name; modules in the current folder are
    found. Without a target a small network is drawn, folded by layer, at a batch of random numbers.

    Parameters
    ----------
    target
        The function.
    args
        Its arguments: numbers and lists with commas between them, or package.module:name of a tuple of them.
    argnums
        The arguments that get a gradient; all without it.
    batch_size
        Examples that the network is drawn with.
    fallback
        Let JAX differentiate what has no local rule; the picture marks it.
    out
        The file to write: .html to fold, zoom and step through, .svg to print, .json to read by program.
    """
    if target is None:
        given = "--args" if args is not None else "--argnums" if argnums is not None else None
        if given:
            raise FbpError(f"{given} must come with a target, got none; e.g. fbp graph my_module:my_function ...")
    from fbp.cli.graph import check_no_network, check_picture, show_graph, trace_function, trace_network
    from fbp.terminal import show_progress

    if target is not None:
        check_no_network(config, batch_size)
    check_picture(out)
    with show_progress() as progress:
        if target is None:
            found = trace_network(config, batch_size, fallback, progress)
        else:
            found = trace_function(target, args, argnums, fallback, progress)
        progress(f"drawing {out}")
        found.draw(out)
    show_graph(found, out)
    return 0


for _command in (train, evaluate, predict, sample, summary):
    app.command(_command)
