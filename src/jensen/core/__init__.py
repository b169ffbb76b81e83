"""Types and functions that every model family uses."""
