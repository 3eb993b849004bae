"""The command line `fbp`: what was typed is parsed, a function is called, its result is printed."""

import sys


def main() -> None:
    """Run `fbp` with the words that were typed, and leave with its status."""
    try:
        from fbp.terminal import start
    except KeyboardInterrupt:
        # What handles it was not there yet.
        print("fbp: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    start("fbp", call)


def call(words: list[str]) -> object:
    """Parse words, call the command that they name, and return its status.

    Args:
        words: what was typed behind `fbp`.
    """
    # Behind the handling of Ctrl-C, because this takes a while.
    from fbp.cli.app import app
    from fbp.cli.options import expand

    if words[:1] == ["train"]:
        words = ["train", *expand(words[1:])]
    return app(words, exit_on_error=False, print_error=False)
