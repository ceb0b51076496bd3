"""`python -m pagecast`: the command."""

from sim.cli import main

main()
