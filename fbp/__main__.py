"""`python -m fbp` is `fbp`."""

from fbp.cli import main

main()
