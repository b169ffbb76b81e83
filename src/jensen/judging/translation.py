"""To be written."""


def strip(model, data):
    """To be written."""
