"""Other libraries' recipes for the same task, each trained as its own documentation trains."""
