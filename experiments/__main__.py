"""All studies, two at a time: `python experiments [--quick] [--out DIR] [--resume]`."""

# First, for a Ctrl-C while the rest is imported.
import fbp.script  # noqa: F401

# isort: split
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from fbp.errors import FbpError
from fbp.terminal import NOTHING_WRITTEN, Progress, explain_interruption, make_parser, show_progress, start

HERE = Path(os.path.relpath(Path(__file__).parent))
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


def make_command(name: str, out: Path, quick: bool) -> list[str]:
    """What makes the report of a study."""
    return ["python", str(HERE / f"{name}.py"), "--out", str(out / name), *(["--quick"] if quick else [])]


def make_environment(name: str, quick: bool) -> dict[str, str]:
    """The environment of a study."""
    if not quick:
        return dict(os.environ)
    flags = QUICK_FLAGS.get(version("jaxlib").rpartition(".")[0], "")
    unoptimized = {} if name in TRAINING else {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return os.environ | unoptimized | {"XLA_FLAGS": f"{flags} {os.environ.get('XLA_FLAGS', '')}"}


def is_there(out: Path, name: str, quick: bool) -> bool:
    """Whether the folder holds a finished report that the same command has made."""
    from fbp.report.rerun import read_manifest

    try:
        command = read_manifest(out / name)["command"]
    except FbpError:
        return False
    return command == shlex.join(make_command(name, out, quick))


def run_studies(names: list[str], out: Path, quick: bool, progress: Progress) -> Iterator[tuple[str, int, float, str]]:
    """Run studies, two at a time; as each is done, its name, status, seconds and last words."""
    waiting, running = list(names), dict[str, tuple[subprocess.Popen[str], float]]()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    name = waiting.pop(0)
                    running[name] = begin(name, out, quick, Path(scratch, name)), time.monotonic()
                    if not waiting or len(running) == AT_ONCE:
                        progress(f"{len(names) - len(waiting) - len(running)} of {len(names)}: {', '.join(running)}")
                for name, (process, begun) in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        said = Path(scratch, name).read_text(encoding="utf-8").strip().splitlines()
                        yield name, process.returncode, time.monotonic() - begun, said[-1] if said else ""
                time.sleep(0.1)
        finally:
            for process, _ in running.values():
                process.send_signal(signal.SIGINT)
            for process, _ in running.values():
                process.wait()


def begin(name: str, out: Path, quick: bool, said: Path) -> subprocess.Popen[str]:
    """Start a study, with a file for what it says."""
    words = [sys.executable, *make_command(name, out, quick)[1:]]
    environment = make_environment(name, quick)
    with said.open("w") as file:
        # In a session of its own: Ctrl-C reaches it by way of this program alone, and once.
        return subprocess.Popen(words, env=environment, stdout=file, stderr=file, text=True, start_new_session=True)


def script(*, out: Path = Path("results"), quick: bool = False, resume: bool = False) -> int:
    """Run all studies, two at a time, each into a folder of its own.

    Parameters
    ----------
    out
        The folder of their folders.
    quick
        Smaller grids, for a first look.
    resume
        Leave the finished reports that the same command has made.
    """
    if out.exists() and not out.is_dir():
        raise FbpError(f"the reports' target must be a folder, got the file {out}; use another name")
    begun, done, failed = time.monotonic(), 0, 0
    names = [name for name in list_studies() if not (resume and is_there(out, name, quick))]
    left = f"finished reports are kept in {out}, and the same command with --resume goes on"
    with explain_interruption(lambda: left if done else NOTHING_WRITTEN), show_progress() as progress:
        for name, status, seconds, said in run_studies(names, out, quick, progress):
            print(f"{name:18} {seconds:5.0f} s  {said}", flush=True)
            done, failed = done + 1, failed + (status != 0)
    print(f"{failed} of {len(names)} failed; {time.monotonic() - begun:.0f} s in all")
    return 1 if failed else 0


def main() -> None:
    """Run the script as the program."""
    app = make_parser("python experiments", "All studies.")
    app.default(script)
    start("experiments", lambda words: app(words, exit_on_error=False, print_error=False))


if __name__ == "__main__":
    main()
