"""All studies, two at a time: `python experiments [--quick] [--out DIR]`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

from fbp.terminal import start

HERE = Path(__file__).parent
# The longest first, so that none of them is left alone at the end.
LONGEST = ("grokking", "papers", "transformer", "remedies", "alternative_rules", "activation")
AT_ONCE = 2
# Small studies compile for longer than they run. XLA aborts on flags that it does not know: versions of JAX that were
# not checked do without them.
QUICK_FLAGS = {"0.10": "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"}
TRAINING = ("grokking", "transformer")
"""Studies that train for long enough to be worth optimizing."""


def list_studies() -> list[str]:
    """The names of the studies, in the order in which they begin."""
    names = sorted(path.stem for path in HERE.glob("[!_]*.py"))
    return [*LONGEST, *(name for name in names if name not in LONGEST)]


def make_environment(name: str, quick: bool) -> dict[str, str]:
    """The environment of a study."""
    if not quick:
        return dict(os.environ)
    flags = QUICK_FLAGS.get(version("jaxlib").rpartition(".")[0], "")
    unoptimized = {} if name in TRAINING else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | unoptimized | {"XLA_FLAGS": f"{flags} {os.environ.get('XLA_FLAGS', '')}"}


def run_studies(out: Path, quick: bool) -> Iterator[tuple[str, int, float, str]]:
    """Run every study; as each is done, its name, status, seconds and last words."""

    def run(name: str) -> tuple[str, int, float, str]:
        begun = time.monotonic()
        words = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out / name), *(["--quick"] if quick else [])]
        environment = make_environment(name, quick)
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        return name, done.returncode, time.monotonic() - begun, said[-1] if said else ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in as_completed([pool.submit(run, name) for name in list_studies()]):
            yield done.result()


def script(*, out: Path = Path("results"), quick: bool = False) -> int:
    """Run all studies, two at a time, each into a folder of its own.

    Parameters
    ----------
    out
        The folder of their folders.
    quick
        Smaller grids, for a first look.
    """
    begun, failed = time.monotonic(), 0
    for name, status, seconds, said in run_studies(out, quick):
        print(f"{name:18} {seconds:5.0f} s  {said}", flush=True)
        failed += status != 0
    print(f"{failed} failed; {time.monotonic() - begun:.0f} s in all")
    return 1 if failed else 0


if __name__ == "__main__":
    from cyclopts import App, Parameter

    app = App(
        name="python experiments",
        help="All studies.",
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.default(script)
    start("experiments", lambda words: app(words, exit_on_error=False, print_error=False))
