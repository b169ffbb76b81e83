"""GANs as divergences and as games: margin losses, critics, penalties, stability."""

from jensen.adversarial.augmentation import (
    TRANSFORMS,
    AdaptiveAugment,
    Brightness,
    Contrast,
    Crop,
    Cutout,
    Flip,
    Mosaic,
    Saturation,
    Translation,
    augment,
)
from jensen.adversarial.divergences import DIVERGENCES, Estimate, bayes_risk, critic_divergence, divergence, risk
from jensen.adversarial.losses import GAME_LOSSES, GameLoss, MarginGame, RelativisticGame, WassersteinGame
from jensen.adversarial.margin import (
    MARGIN_LOSSES,
    MarginLoss,
    check_f,
    exponential,
    hinge,
    logistic,
    margin_loss,
    squared,
    zero_one,
)
from jensen.adversarial.noise import annealed, instance_noise
from jensen.adversarial.packing import pack
from jensen.adversarial.penalties import clip_weights, dragan, gradient_penalty, r1, r2, spectral_norm
from jensen.adversarial.pool import ImagePool
from jensen.adversarial.wasserstein import wasserstein1

__all__ = [
    "DIVERGENCES",
    "GAME_LOSSES",
    "MARGIN_LOSSES",
    "TRANSFORMS",
    "AdaptiveAugment",
    "Brightness",
    "Contrast",
    "Crop",
    "Cutout",
    "Estimate",
    "Flip",
    "GameLoss",
    "ImagePool",
    "MarginGame",
    "MarginLoss",
    "Mosaic",
    "RelativisticGame",
    "Saturation",
    "Translation",
    "WassersteinGame",
    "annealed",
    "augment",
    "bayes_risk",
    "check_f",
    "clip_weights",
    "critic_divergence",
    "divergence",
    "dragan",
    "exponential",
    "gradient_penalty",
    "hinge",
    "instance_noise",
    "logistic",
    "margin_loss",
    "pack",
    "r1",
    "r2",
    "risk",
    "spectral_norm",
    "squared",
    "wasserstein1",
    "zero_one",
]
