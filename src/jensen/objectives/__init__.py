"""Training objectives."""

from jensen.objectives.adversarial import SIMULTANEOUS, Adversarial, alternating
from jensen.objectives.cycle import CycleConsistent, Paired
from jensen.objectives.denoising import Denoising, Hybrid
from jensen.objectives.fitted import Fitted
from jensen.objectives.kernel import LeaveOneOut
from jensen.objectives.reading import Reading
from jensen.objectives.reconstruction import AddedNoise, Masked, Reconstruction
from jensen.objectives.score_matching import MATCHING, ScoreMatching
from jensen.objectives.variational import Variational
from jensen.objectives.variational_diffusion import VariationalDiffusion

__all__ = [
    "MATCHING",
    "SIMULTANEOUS",
    "AddedNoise",
    "Adversarial",
    "CycleConsistent",
    "Denoising",
    "Fitted",
    "Hybrid",
    "LeaveOneOut",
    "Masked",
    "Paired",
    "Reading",
    "Reconstruction",
    "ScoreMatching",
    "Variational",
    "VariationalDiffusion",
    "alternating",
]
