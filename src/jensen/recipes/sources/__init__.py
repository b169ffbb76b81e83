"""Data sources. Sources do not import families or judges: opening one gives a `jensen.data.dataset.Data`."""
