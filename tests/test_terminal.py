"""How a command ends, whatever ends it: its status, its one line, Ctrl-C at any moment, readers that leave."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest

import fbp
from fbp.errors import FbpError, Status
from fbp.interrupts import postpone_interruptions, watch_interruptions
from fbp.report.write import _swap_in
from fbp.terminal import explain_interruption, run


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (FbpError("a must b, got c; d"), 2, "t: a must b, got c; d\n"),
        (MemoryError("no 8 GiB"), 2, "t: a run must fit the memory, got MemoryError: no 8 GiB; take a smaller"),
        (RuntimeError("RESOURCE_EXHAUSTED: 8 GiB"), 2, "t: a run must fit the memory"),
        (
            OSError(28, "No space left on device", "x"),
            2,
            "t: files must be readable and writable, got OSError: [Errno 28]",
        ),
        (SystemExit(1), 2, "t: functions must return to their caller, got SystemExit: 1"),
        (ZeroDivisionError("by\nzero"), 70, "t: internal error, ZeroDivisionError: by; please report it as an issue"),
        (KeyboardInterrupt(), 130, "t: interrupted; nothing was written\n"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_every_end_has_its_status_and_one_line(capsys, error, status, line):
    assert run("t", lambda _: raise_error(error), []) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1
    assert run("t", lambda _: raise_error(error), ["--debug"]) == status
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert line.strip() in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "kept", "debug"),
    [
        (["--debug", "train", "x"], ["train", "x"], True),
        (["train", "x", "--debug"], ["train", "x"], True),
        (["train", "--", "--debug"], ["train", "--", "--debug"], False),
    ],
)
def test_debug_stands_anywhere(capsys, words, kept, debug):
    def command(received):
        assert received == kept
        raise FbpError("a must b, got c; d")

    assert run("t", command, words) == Status.MISUSED
    assert ("Traceback" in capsys.readouterr().err) == debug


def test_a_status_is_that_of_the_command():
    assert [run("t", lambda _, end=end: end, []) for end in (None, 0, 1, 3)] == [0, 0, 1, 3]


def test_what_c_code_makes_of_an_interruption_is_one(capsys):
    def compile_something(_):
        try:
            press_ctrl_c()
        except KeyboardInterrupt:
            raise RuntimeError("INTERNAL: CpuCallback error") from None

    assert run("t", compile_something, []) == Status.INTERRUPTED
    assert capsys.readouterr().err == "t: interrupted; nothing was written\n"


SWALLOWED = """
import gc, signal, sys, time
from fbp.terminal import run

class Swallows:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def work(_):
    Swallows()
    gc.collect()
    time.sleep(20)

sys.exit(run("t", work, []))
"""


def test_an_interruption_that_nobody_could_catch_comes_again():
    # In an interpreter of its own: what the garbage collector of a long one calls back takes interruptions, too.
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, check=False)
    assert time.monotonic() - begin < 10
    assert (done.returncode, done.stderr) == (Status.INTERRUPTED, "t: interrupted; nothing was written\n")


def test_a_second_ctrl_c_does_not_break_the_cleaning(capsys):
    cleaned = []

    def work(_):
        try:
            press_ctrl_c()
        finally:
            press_ctrl_c()
            cleaned.append(True)

    assert run("t", work, []) == Status.INTERRUPTED
    assert cleaned


def test_what_must_stay_whole_is_not_interrupted():
    done = []

    def work():
        with watch_interruptions(), postpone_interruptions():
            press_ctrl_c()
            done.append(True)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is before


def test_a_module_in_c_is_not_interrupted_while_it_is_initialized(capsys):
    class Loader(ExtensionFileLoader):
        def exec_module(self, module):
            press_ctrl_c()
            initialized.append(module)

    initialized = []

    def work(_):
        Loader("name", "path").exec_module("module")
        time.sleep(20)

    assert run("t", work, []) == Status.INTERRUPTED
    assert initialized == ["module"]


def test_the_handler_of_a_caller_stays():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        assert run("t", lambda _: press_ctrl_c(), []) == Status.DONE
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed


def test_a_command_runs_in_any_thread(capsys):
    ends = []
    thread = threading.Thread(target=lambda: ends.append(run("t", lambda _: Status.FAILED, [])))
    thread.start()
    thread.join()
    assert ends == [Status.FAILED]


def test_a_report_that_is_interrupted_while_it_is_put_in_place_is_complete(monkeypatch, tmp_path):
    target = tmp_path / "report"
    target.mkdir()
    (target / "data.csv").write_text("old")
    replace = os.replace

    def interrupted_replace(*names):
        press_ctrl_c()
        replace(*names)

    def write():
        with watch_interruptions(), _swap_in(target) as building:
            (building / "data.csv").write_text("new")

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert (target / "data.csv").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("what C code has made of it")], ids=repr)
def test_a_command_says_what_an_interruption_left(capsys, error):
    def command(_):
        with explain_interruption(lambda: "half of it is there"):
            try:
                press_ctrl_c()
            except KeyboardInterrupt:
                raise error from None

    assert run("t", command, []) == Status.INTERRUPTED
    assert capsys.readouterr().err == "t: interrupted; half of it is there\n"


def test_another_error_is_none(capsys):
    def command(_):
        with explain_interruption(lambda: "half of it is there"):
            raise FbpError("a must b, got c; d")

    assert run("t", command, []) == Status.MISUSED
    assert capsys.readouterr().err == "t: a must b, got c; d\n"


# Programs in other folders use the package that is tested.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(fbp.__file__).parent.parent)}
# Whoever runs the tests in the background ignores SIGINT, and so would the programs.
HEAD = "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
PROGRAM = """
from fbp.terminal import start
def command(words):
    {body}
def main():
    start("t", command)
if __name__ == "__main__":
    main()
"""


def launch(tmp_path, body, source=PROGRAM, **options):
    program = tmp_path / "program.py"
    program.write_text(HEAD + source.format(body=body))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT} | options
    return subprocess.Popen([sys.executable, str(program)], **pipes)


def test_ctrl_c_leaves_without_a_finalizer_that_XLA_would_crash_in(tmp_path):
    body = 'import atexit; atexit.register(print, "finalized"); print("ready", flush=True); time.sleep(60)'
    program = launch(tmp_path, body)
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    out, said = program.communicate(timeout=30)
    assert "finalized" not in out
    assert said == "t: interrupted; nothing was written\n"
    assert program.returncode == Status.INTERRUPTED


def test_ctrl_c_while_a_script_imports_is_one_line(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\nprint('ready', flush=True)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise ImportError('failed to import')"
    )
    program = launch(tmp_path, None, source="import fbp.script\nimport slow\n")
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=30)[1] == "program: interrupted; nothing was written\n"
    assert program.returncode == Status.INTERRUPTED


def test_a_program_that_ends_by_itself_is_finalized(tmp_path):
    program = launch(tmp_path, 'import atexit; atexit.register(print, "finalized")')
    assert program.communicate(timeout=30) == ("finalized\n", "")
    assert program.returncode == 0


def test_ctrl_c_while_a_program_is_finalized_is_one_line(tmp_path):
    program = launch(tmp_path, 'import atexit; atexit.register(time.sleep, 60); print("ready"); return 1')
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=30)[1] == "t: interrupted; all was done\n"
    assert program.returncode == Status.INTERRUPTED


def test_a_reader_may_leave(tmp_path):
    program = launch(tmp_path, 'print("line\\n" * 100_000); return 1')
    assert program.stdout.readline() == "line\n"
    program.stdout.close()
    assert program.stderr.read() == ""
    program.stderr.close()
    # The status is still what the command has found.
    assert program.wait(timeout=30) == 1


def test_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        program = launch(tmp_path, 'print("line")', stdout=full)
        _, said = program.communicate(timeout=30)
    assert program.returncode == Status.MISUSED
    assert said.startswith("t: standard output must take what is printed, got No space left on device; ")
    assert said.count("\n") == 1


def test_closed_streams_are_no_error(tmp_path):
    program = launch(tmp_path, 'print("line"); print("line", file=sys.stderr); open("/dev/null"); return 3')
    program.communicate(timeout=30)
    closed = f"{sys.executable} {tmp_path / 'program.py'} >&- 2>&-"
    assert subprocess.run(closed, shell=True, check=False, env=ENVIRONMENT).returncode == 3


NOISE = """
print("noise")
import ctypes, os, sys
from sys import stdout
os.write(1, b"noise\\n")
ctypes.CDLL(None).puts(b"noise")
sys.__stdout__.write("noise\\n")
stdout.write("noise\\n")
os.system("echo noise")
"""


def test_json_stands_alone(tmp_path):
    (tmp_path / "noise.py").write_text(NOISE)
    body = (
        "from fbp.streams import print_result, reserve_stdout\n"
        "    with reserve_stdout(True):\n        import noise; print_result('{\"a\": 1}')\n    print('after')"
    )
    out, said = launch(tmp_path, body).communicate(timeout=30)
    assert out == '{"a": 1}\nafter\n'
    assert said.split() == ["noise"] * 6


def test_the_command_line_prints_json_alone(tmp_path):
    (tmp_path / "rules.py").write_text(
        NOISE + "import jax\n"
        "def loss(w):\n    print('noise')\n    return (w ** 2).sum()\n"
        "def right(w):\n    print('noise')\n    return 2 * w\n"
        "args = (jax.numpy.ones(2),)\n"
    )
    words = [sys.executable, "-m", "fbp", "verify", "rules:right", "--loss", "rules:loss", "--args", "rules:args"]
    options = {"cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run([*words, "--json"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "PASS"
    assert "noise" in done.stderr
