"""`fbp train`, and what is done with a run: evaluate, predict, sample, summary."""

from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from fbp.cli.cache import keep_programs
from fbp.cli.many import ManyConfig, print_tests, train_many, warn_of_loss
from fbp.cli.options import options_of, read_options, write_options
from fbp.cli.rule import make_rule
from fbp.cli.subject import Subject, arrange, make_subject
from fbp.config import SHARED, Integer, NetworkConfig, TrainingConfig, TransformerConfig
from fbp.errors import FbpError, check_count, check_seed
from fbp.run_folder import CONFIG, DATA, check_new
from fbp.serialize import to_json, to_json_line
from fbp.streams import print_result, reserve_stdout

if TYPE_CHECKING:
    from fbp.data import Dataset
    from fbp.losses import Loss
    from fbp.training import Evaluation, Fitted, Saved

Network = Annotated[NetworkConfig, Parameter(name="*", group=Group("Network", sort_key=1))]
Transformer = Annotated[TransformerConfig, Parameter(name="*", group=Group("Transformer, --network gpt", sort_key=2))]
Training = Annotated[TrainingConfig, Parameter(name="*", group=Group("Training", sort_key=3))]
Many = Annotated[ManyConfig, Parameter(name="*", group=Group("Many runs at once", sort_key=4))]
Number = Annotated[Integer | None, Parameter(name="--run")]
_NETWORK, _TRANSFORMER, _TRAINING, _MANY = NetworkConfig(), TransformerConfig(), TrainingConfig(), ManyConfig()
RUNS = Path("runs")


def train(
    *,
    network: Literal["mlp", "gpt"] = "mlp",
    mlp: Network = _NETWORK,
    transformer: Transformer = _TRANSFORMER,
    training: Training = _TRAINING,
    many: Many = _MANY,
    data: str = "digits",
    out: Path | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    page: Annotated[bool, Parameter(negative="--no-page")] = True,
    cache: Annotated[bool, Parameter(negative="--no-cache")] = True,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Train a network, keep all of it in a folder, and say how good it is on the test data.

    Ctrl-C ends it without loss: --resume FOLDER goes on with the same bits as if it had never stopped.

    Parameters
    ----------
    network
        A multilayer perceptron on examples of features, or a transformer on tokens.
    data
        A name (digits, mnist, modular(97), ...), a file or a folder.
    out
        The folder to keep the run in; runs/NAME-1, -2, ... without it.
    resume
        Go on with the run in this folder, as it was begun.
    config
        A TOML file of options; those that are typed come before those in it.
    page
        Write the page of the run, report/report.html in its folder.
    cache
        Keep compiled programs in the user's cache folder, so that the next call starts sooner.
    quiet
        Show no progress.
    json
        Print every epoch and the result as lines of JSON.
    """
    assert config is None, "read by fbp.cli.options"
    training.check()
    if cache:
        keep_programs()
    many.check(training, mlp.seed, resume)
    if out is not None and resume is None:
        check_new(out)
    subject = make_subject(network, data, mlp, transformer, training, many.count)
    folder = resume or out or _next_folder(subject.data.name)
    from fbp.terminal import explain_interruption
    from fbp.training import evaluate, open_run, show_progress

    with reserve_stdout(json):
        hint = lambda: f"what was trained is kept; go on with: fbp train --resume {folder}"
        if many.is_asked:
            warn_of_loss(folder, quiet or json)
            hint = lambda: f"what was trained is kept in {folder}; many runs do not go on"
        runs = None
        with explain_interruption(hint), show_progress(training.epochs, quiet=quiet, json=json) as shown:
            _keep_options(folder, network, data, mlp, transformer, training, many)
            _keep_facts(folder, subject.data)
            if many.is_asked:
                runs = train_many(many, subject, mlp if network == "mlp" else None, mlp.seed, folder, shown)
            else:
                options = {"callbacks": [shown.on_epoch], "on_steps": shown.on_steps, "resume": resume is not None}
                _fit(subject, mlp.seed, out=folder, **options)
        if runs is not None:
            return print_tests(runs, subject, folder, json)
        saved = open_run(folder)
        tested = evaluate(saved.net, subject.loss, saved.params, subject.test_X, subject.test_Y)
        _print_test(tested, folder, json)
        if page:
            _write_page(folder, saved, subject, quiet or json)
    return 0


def evaluate(run: Path, /, *, number: Number = None, data: str | None = None, json: bool = False) -> int:
    """Evaluate the network of a run on the test part of data.

    Parameters
    ----------
    run
        The folder of a run.
    number
        Which one, in a folder of many runs, from 0.
    data
        A name, a file or a folder; what it was trained on without it.
    json
        Print JSON.
    """
    from fbp.data import load
    from fbp.training import evaluate, open_run

    saved = open_run(run, run=number)
    loss = _loss_of(saved, run)
    source = data or _source_of(run)
    (_, _), (X, Y) = arrange(load(source, scaled=False), saved.net, loss)
    with reserve_stdout(json):
        _print_test(evaluate(saved.net, loss, saved.params, X, Y), run, json, saved=False)
    return 0


def predict(run: Path, /, *images: Path, number: Number = None, invert: bool | None = None, json: bool = False) -> int:
    """Say which class a network of a run sees in images.

    Parameters
    ----------
    run
        The folder of a run.
    images
        Image files; they are made grey and as large as the network's inputs.
    number
        Which one, in a folder of many runs, from 0.
    invert
        Turn light into dark; without it an image with a bright border is turned, because digits are light on dark.
    json
        Print JSON.
    """
    if not images:
        raise FbpError("predict must be given images, got none; e.g. fbp predict runs/mnist image.png")
    import jax.numpy as jnp

    from fbp.data import read_image
    from fbp.training import open_run

    saved = open_run(run, run=number)
    facts = read_data_facts(run)
    side = facts.get("shape") or ()
    if len(side) != 2:
        raise FbpError(f"predict must have a network of images, got examples of the shape {side}; use another run")
    X = jnp.stack([jnp.asarray(read_image(path, tuple(side), invert=invert)) for path in images])
    loss = _loss_of(saved, run)
    Z, _ = saved.net.forward(saved.params, X)
    probabilities = jnp.asarray(loss.output(Z)).tolist()
    names = facts.get("class_names") or [str(i) for i in range(len(probabilities[0]))]
    with reserve_stdout(json):
        found = []
        for path, row in zip(images, probabilities, strict=True):
            order = sorted(range(len(row)), key=lambda i: -row[i])
            by_name = dict(zip(names, row, strict=True))
            found.append({"image": str(path), "class": names[order[0]], "probabilities": by_name})
            if not json:
                likely = ", ".join(f"{names[i]} {row[i]:.1%}" for i in order[:3])
                print_result(f"{path}: {names[order[0]]}   ({likely})")
        if json:
            print_result(to_json(found))
    return 0


def sample(
    run: Path,
    /,
    *,
    number: Number = None,
    prompt: str | None = None,
    length: Integer = 500,
    temperature: float = 1.0,
    seed: Integer = 0,
) -> int:
    """Let a transformer that was trained on a text go on with a prompt.

    Parameters
    ----------
    run
        The folder of a run.
    number
        Which one, in a folder of many runs, from 0.
    prompt
        What to go on from; the first character that was learnt without it.
    length
        Characters to draw.
    temperature
        1 is what was learnt; less is more careful, 0 always takes the likeliest.
    seed
        Of the draws.
    """
    check_count("--length", length)
    check_seed(seed)
    import jax

    from fbp.data import decode, encode
    from fbp.training import open_run, sample

    saved = open_run(run, run=number)
    characters = read_data_facts(run).get("class_names")
    if not saved.net.takes_integers or not characters:
        raise FbpError(f"sample must have a network of characters, got a run of features in {run}; use another run")
    start = prompt or characters[0]
    drawn = sample(
        saved.net,
        saved.params,
        encode(start, characters),
        length,
        jax.random.key(seed),
        length=saved.shape[0],
        temperature=temperature,
    )
    print_result(start + decode(drawn, characters))
    return 0


def summary(run: Path, /, *, number: Number = None, json: bool = False) -> int:
    """Say what a run is: the network layer by layer, the data, the training, what it reached.

    Parameters
    ----------
    run
        The folder of a run.
    number
        Which one, in a folder of many runs, from 0.
    json
        Print JSON.
    """
    from fbp.training import describe_run

    found = describe_run(run, run=number)
    print_result(to_json(found.to_dict()) if json else str(found))
    return 0


def _write_page(folder: Path, saved: "Saved", subject: Subject, is_quiet: bool) -> None:
    from fbp.report.write import PAGE, write
    from fbp.studies.runs import run_report

    write(run_report(folder, saved, subject.test_X, subject.test_Y), folder / PAGE)
    if not is_quiet:
        print_result(f"page: {folder / PAGE / 'report.html'}")


def _fit(subject: Subject, seed: int, **options: Any) -> "Fitted":
    from fbp.training import fit

    training = subject.training
    rule, data = make_rule(training, len(subject.Y)), (subject.X, subject.Y)
    options |= {"optimizer": rule, "seed": seed, "validation": subject.validation, **training.options()}
    return fit(subject.net, subject.loss, subject.params, data, **options)


def _next_folder(name: str) -> Path:
    stem = "".join(character if character.isalnum() or character in "-_." else "-" for character in name).strip("-.")
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return RUNS / f"{stem}-{number}"


def _keep_options(
    folder: Path,
    network: str,
    data: str,
    mlp: NetworkConfig,
    transformer: TransformerConfig,
    training: TrainingConfig,
    many: ManyConfig,
) -> None:
    source = str(Path(data).resolve()) if Path(data).exists() else data
    own = options_of(mlp) if network == "mlp" else options_of(mlp, SHARED) | options_of(transformer)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"run": {"network": network, "data": source}, "network": own, "training": options_of(training)}
    tables["many"] = options_of(many)
    write_options(folder / CONFIG, tables)


def _keep_facts(folder: Path, data: "Dataset") -> None:
    """What is known of the data, for those who use the network without them."""
    from fbp.data.files import replace_text

    names = ("name", "sha256", "classes", "shape", "class_names", "vocabulary", "held_out")
    replace_text(folder / DATA, to_json({name: getattr(data, name) for name in names}) + "\n")


def read_data_facts(run: Path) -> dict[str, Any]:
    """What a run says of its data.

    Args:
        run: its folder.

    Raises:
        FbpError: it says nothing, or not in the form that it was written in.
    """
    try:
        facts = loads((run / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FbpError(
            f"a run of fbp train must say what its data are, got no readable {DATA} in {run}; use another folder"
        ) from error
    if not isinstance(facts, dict):
        raise FbpError(f"{run / DATA} must be a JSON object, got a {type(facts).__name__}; use another folder")
    for name, kind in (("shape", int), ("class_names", str)):
        values = facts.get(name)
        if values is not None and not (isinstance(values, list) and all(isinstance(each, kind) for each in values)):
            raise FbpError(f"{name} in {run / DATA} must be a list of {kind.__name__}, got {values!r:.40}; mend it")
    return facts


def _source_of(run: Path) -> str:
    source = read_options(run / CONFIG).get("data", "digits")
    return str(source)


def _loss_of(saved: "Saved", run: Path) -> "Loss":
    if saved.loss is None:
        raise FbpError(f"the loss of a run must be one of fbp's, got one of its own in {run}; use it in Python")
    return saved.loss


def _print_test(tested: "Evaluation", folder: Path, as_json: bool, saved: bool = True) -> None:
    if as_json:
        print_result(to_json_line({"test": tested._asdict(), "run": str(folder)}))
        return
    accuracy = "" if tested.accuracy is None else f", accuracy {tested.accuracy:.2%}"
    print_result(f"test loss {tested.loss:.4g}{accuracy}" + (f"; saved in {folder}" if saved else ""))
