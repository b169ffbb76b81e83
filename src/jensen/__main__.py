"""`python -m jensen`."""

from jensen.cli.main import entry

entry()
