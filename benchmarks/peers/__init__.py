"""Other libraries' recipes for the same task, each trained as in its documentation."""
