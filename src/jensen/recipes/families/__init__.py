"""Model families. Families do not import sources or judges: all they know about the data is a `Space`."""
