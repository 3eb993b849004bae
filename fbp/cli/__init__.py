"""The command line `fbp`: what was typed is parsed, a function is called, its result is printed."""

from fbp.cli.app import app, main

__all__ = ["app", "main"]
