"""The default settings of each family for a user's data, points or pictures."""

from __future__ import annotations

from collections.abc import Callable

from jensen.judging.settings import COMMON, Judging
from jensen.recipes.families.base import Family
from jensen.recipes.families.diffusion import Diffusion, DiffusionSampling
from jensen.recipes.families.gan import GAN, Game
from jensen.recipes.families.kernel import Kernel
from jensen.recipes.families.mixture import Mixture
from jensen.recipes.families.reader import Reader
from jensen.recipes.families.score import Score, ScoreNetwork, ScoreSampling
from jensen.recipes.families.translation import Shown, Translation
from jensen.recipes.families.vae import VAE, Bound, Network
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.base import Source

MINUTES = 10.0
NAMES = {"vae": "VAE", "gan": "GAN"}
FEW = Judging(
    samples=1000, rows=1000, steps=(8, 16, 32), bound_steps=100, ode_rows=1000, importance=1000, refine_rows=40
)
UNET = {"samples": 500, "rows": 500, "steps": (8,), "bound_steps": 0, "ode_rows": 32}  # each evaluation is dear
CONVOLUTIONAL = {"importance": 500, "importance_rows": 100, "refine_rows": 0}  # each draw of z is decoded


def _training(pictures: bool, **changes: object) -> Training:
    """Training of a network by AdamW; weights are averaged over more steps for pictures."""
    usual = {"minutes": MINUTES, "batch_size": 64 if pictures else 256, "average": 0.999, "rate": 1e-3}
    return Training.model_validate(usual | {"save_every": 500, "log_every": 25, "previews": 8} | changes)


def usual(kind: str, source: Source) -> Recipe:
    """The default recipe of the family `kind` on this source."""
    pictures = not source.tabular if (space := source.known()) is None else space.pictures
    family, training, judging = _USUAL.get(kind, _any(Family.kinds[kind]))(pictures)
    return Recipe(
        name=kind,
        about=f"{NAMES.get(kind, kind)} on your own data",
        data=source,
        family=family,
        training=training,
        judging=judging,
    )


Usual = tuple[Family, Training, Judging]


def _any(kind: type) -> Callable[[bool], Usual]:
    """The defaults of a family."""
    return lambda pictures: (kind(), _training(pictures), _judged(kind))


def _judged(kind: type, **changes: object) -> Judging:
    """The settings `FEW` with changes, without those that no judge of the family uses."""
    assert issubclass(kind, Family)
    used = COMMON | kind.judged
    settings = FEW.model_dump(exclude_unset=True) | changes
    return Judging.model_validate({key: value for key, value in settings.items() if key in used})


def _denoising(pictures: bool) -> Training:
    """Points are given few steps: after 8,000 the density overfits 10,000 rows of 8 columns by 0.15 nats."""
    length = {} if pictures else {"minutes": None, "steps": 8000}
    return _training(pictures, rate=2e-3, **length)


def _diffusion(pictures: bool) -> Usual:
    sampling = DiffusionSampling(sampler="dpm++", steps=20, clip=pictures, start=1.0, guidance=None)
    return (
        Diffusion(sampling=sampling),
        _denoising(pictures),
        _judged(Diffusion, **(UNET if pictures else {})),
    )


def _score(pictures: bool) -> Usual:
    network = ScoreNetwork(largest=20.0, smallest=0.05, levels=16) if pictures else ScoreNetwork()
    sampling = ScoreSampling(sampler="dpm++", steps=20)
    return (
        Score(network=network, sampling=sampling),
        _denoising(pictures),
        _judged(Score, **(UNET if pictures else {})),
    )


def _gan(pictures: bool) -> Usual:
    weight, every = (0.3, 8) if pictures else (0.1, 1)  # a critic of pictures is dear to differentiate twice
    game = Game(loss="relativistic", penalty="r1+r2", penalty_weight=weight, penalty_every=every)
    playing = {"clip": None, "weight_decay": 0.0, "betas": (0.0, 0.99), "rate": 1e-3}
    return GAN(game=game), _training(pictures, **playing), _judged(GAN)


def _vae(pictures: bool) -> Usual:
    if not pictures:  # the ELBO would leave correlated columns to single latents; K draws fit the density more closely
        bound = Bound(name="iwae", samples=8)
        vae = VAE(network=Network(latents=(8,)), prior="learned", bound=bound)
        return vae, _training(pictures, rate=2e-3), _judged(VAE)
    bound = Bound(warm="linear", warm_steps=300)
    judging = _judged(VAE, **CONVOLUTIONAL)
    return VAE(network=Network(latents=(32,)), bound=bound), _training(pictures), judging


def _reader(pictures: bool) -> Usual:
    return Reader(), _training(pictures, minutes=3.0, previews=0, weight_decay=0.05), _judged(Reader)


def _translation(_: bool) -> Usual:
    """With little noise, since a user's pictures differ more than digits do."""
    shown = Shown(noise=0.5, noise_end=0.05, noise_steps=1000)
    playing = {"batch_size": 16, "rate": 4e-4, "betas": (0.5, 0.999), "weight_decay": 0.0, "clip": None}
    return Translation(shown=shown), _training(True, **playing), _judged(Translation)


def _fitted(kind: type) -> Callable[[bool], Usual]:
    """The recipe of a family that is fitted before its only training step."""
    return lambda _: (kind(), Training(steps=1, previews=1), _judged(kind))


_USUAL: dict[str, Callable[[bool], Usual]] = {
    "diffusion": _diffusion,
    "score": _score,
    "gan": _gan,
    "reader": _reader,
    "translation": _translation,
    "kernel": _fitted(Kernel),
    "mixture": _fitted(Mixture),
    "vae": _vae,
}
