"""Train, sample and judge deep generative models, with exact answers to hold them to."""

__version__ = "0.1.0"
