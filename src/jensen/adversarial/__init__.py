"""GANs as divergences and as games: margin losses, critics, penalties, stability."""

from jensen.adversarial.augmentation import (
    TRANSFORMS,
    AdaptiveAugment,
    Brightness,
    Contrast,
    Crop,
    Cutout,
    Flip,
    Jitter,
    Mosaic,
    Saturation,
    Translation,
    augment,
)
from jensen.adversarial.critics import ModeFeatures, critic_logits, train_critic
from jensen.adversarial.dirac import DiracGAN
from jensen.adversarial.divergences import DIVERGENCES, Estimate, bayes_risk, critic_divergence, divergence, risk
from jensen.adversarial.dynamics import change_along_flow, trajectory
from jensen.adversarial.field import vector_field
from jensen.adversarial.losses import GAME_LOSSES, GameLoss, MarginGame, RelativisticGame, WassersteinGame, game_loss
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
from jensen.adversarial.penalties import (
    clip_weights,
    dragan,
    gradient_penalty,
    power_iteration,
    r1,
    r2,
    spectral_norm,
)
from jensen.adversarial.pool import ImagePool
from jensen.adversarial.spectrum import Stability, eigenvalues, stability
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
    "DiracGAN",
    "Estimate",
    "Flip",
    "GameLoss",
    "ImagePool",
    "Jitter",
    "MarginGame",
    "MarginLoss",
    "ModeFeatures",
    "Mosaic",
    "RelativisticGame",
    "Saturation",
    "Stability",
    "Translation",
    "WassersteinGame",
    "annealed",
    "augment",
    "bayes_risk",
    "change_along_flow",
    "check_f",
    "clip_weights",
    "critic_divergence",
    "critic_logits",
    "divergence",
    "dragan",
    "eigenvalues",
    "exponential",
    "game_loss",
    "gradient_penalty",
    "hinge",
    "instance_noise",
    "logistic",
    "margin_loss",
    "pack",
    "power_iteration",
    "r1",
    "r2",
    "risk",
    "spectral_norm",
    "squared",
    "stability",
    "train_critic",
    "trajectory",
    "vector_field",
    "wasserstein1",
    "zero_one",
]
