"""`python -m skillmeterd`: the same as the `skillmeter` command."""

from .cli import main

main()
