"""The command line `fbp`: what was typed is parsed, a function is called, its result is printed."""

from fbp.cli.app import app as app
from fbp.cli.app import main as main
