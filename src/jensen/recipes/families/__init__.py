"""Model families. A family knows no source and no judge: what it knows of data is a `Space`."""
