"""One trainer for every game."""

from jensen.training.budget import Budget, warm_then_decay
from jensen.training.ema import begin_average, update_average, warm_decay
from jensen.training.loop import fit, interrupts, on_device
from jensen.training.power import WIDEST, Profile, exponent, power_decay, reconstruct, reconstruction, relative_width
from jensen.training.recompute import recompute
from jensen.training.step import Player, TrainState, Update, descend, train_step
from jensen.training.tolerance import Tolerance
from jensen.training.updates import consensus, extragradient, optimistic

__all__ = [
    "WIDEST",
    "Budget",
    "Player",
    "Profile",
    "Tolerance",
    "TrainState",
    "Update",
    "begin_average",
    "consensus",
    "descend",
    "exponent",
    "extragradient",
    "fit",
    "interrupts",
    "on_device",
    "optimistic",
    "power_decay",
    "recompute",
    "reconstruct",
    "reconstruction",
    "relative_width",
    "train_step",
    "update_average",
    "warm_decay",
    "warm_then_decay",
]
