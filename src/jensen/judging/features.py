"""To be written."""


class Features:
    """To be written."""


def features_of(name, data):
    """To be written."""
