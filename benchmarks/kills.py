"""Trainings that are killed at random moments and resumed: are the final weights those of one that nobody disturbed?

    python benchmarks/kills.py --runs 200 --out benchmarks/results

Every run is killed (SIGKILL) once or several times, at moments drawn over its whole length, while it saves a checkpoint
after every few steps. In every fourth one the disk first refuses to take more of a file (RLIMIT_FSIZE).
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

STEPS = {"epochs": 6, "batch_size": 16, "seed": 3}


def train(folder: str, limit: int | None) -> None:
    """One training, resumed from what there is, in a process of its own."""
    import jax
    import numpy as np
    import optax

    import fbp

    run, fitting = (importlib.import_module(f"fbp.training.{name}") for name in ("run", "fit"))
    run.SAVE_SECONDS, fitting.CHUNK_SECONDS = 0.0, 2e-3
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    net = fbp.mlp((20, 64, 64, 5), "gelu", dropout=0.2)
    draw = np.random.default_rng(0)
    X, Y = draw.standard_normal((2000, 20), np.float32), draw.integers(0, 5, 2000)
    params, _ = net.init(jax.random.key(0))
    options = {"patience": 50, "validation_split": 0.1, "monitor": "full", **STEPS}
    fbp.fit(
        net, fbp.SoftmaxCrossEntropy(), params, (X, Y), optimizer=optax.adam(3e-3), out=folder, resume=True, **options
    )


def start(folder: str, limit: int | None = None) -> int:
    """Fork a training, from a process that has imported what it needs but started no device."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(folder, limit)
        status = 0
    except BaseException:
        # The log is a file, too, and may be the one that is refused.
        with suppress(BaseException):
            traceback.print_exc()
    finally:
        # Nothing of the parent is unwound here, such as its temporary folder.
        os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """The status of a process that ended by itself within some seconds; None if it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def digest(folder: Path) -> str:
    """What must be the same: weights, and the history without its times."""
    rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in ("seconds", "examples_per_second")]
    history = "\n".join(",".join(row[i] for i in kept) for row in rows)
    return hashlib.sha256((folder / "weights.safetensors").read_bytes() + history.encode()).hexdigest()


def main() -> int:
    """Kill and resume; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import optax  # noqa: F401 - imported once, for all the processes that are forked

    import fbp.training  # noqa: F401

    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        jax.config.update("jax_compilation_cache_dir", f"{scratch}/cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name in ("first", "whole"):
            begin = time.monotonic()
            status = wait(start(f"{scratch}/{name}"), 120)
            length = time.monotonic() - begin
            if status != 0:
                print(f"the undisturbed training must succeed, got status {status}", file=sys.stderr)
                return 1
        expected, largest = digest(Path(scratch, "whole")), 0
        for file in Path(scratch, "whole", "checkpoints").iterdir():
            largest = max(largest, file.stat().st_size)
        same, kills, refused, during = 0, 0, 0, 0
        for i in range(options.runs):
            folder = Path(scratch, f"run-{i}")
            if i % 4 == 0:
                refused += wait(start(str(folder), draw.randrange(1, largest)), 60) == 1
            for _ in range(draw.randint(1, 3)):
                begin, moment = time.monotonic(), draw.uniform(0.2, 1.0) * length
                if wait(start(str(folder)), moment) is not None:
                    # The machine has become quicker.
                    length = time.monotonic() - begin
                    break
                kills += 1
                during += any(folder.rglob("*.tmp"))
            status = wait(start(str(folder)), 120)
            agrees = status == 0 and digest(folder) == expected
            same += agrees
            if not agrees:
                print(f"run {i}: status {status}\n{folder.with_suffix('.log').read_text()}", file=sys.stderr)
            print(f"{i + 1} of {options.runs}: {same} the same, {kills} kills", file=sys.stderr, flush=True)
    result = {"runs": options.runs, "same": same, "kills": kills, "killed_while_writing": during, "refused": refused}
    print(json.dumps(result))
    if options.out:
        (options.out / "kills.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if same == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
