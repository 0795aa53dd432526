"""`python -m isochroma`."""

from isochroma.cli import main

main()
