"""Runs: a folder that is trained into, opened, drawn from, judged and compared."""
