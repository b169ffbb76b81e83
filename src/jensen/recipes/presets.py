"""Recipes by name. Each differs from the defaults of its data and its family in what is written here alone."""

from __future__ import annotations

from functools import partial

from jensen.judging.settings import Judging
from jensen.recipes.families.diffusion import Diffusion, DiffusionLoss, DiffusionNetwork, DiffusionSampling
from jensen.recipes.families.gan import GAN, Game
from jensen.recipes.families.gan import Network as GANNetwork
from jensen.recipes.families.kernel import Kernel
from jensen.recipes.families.mixture import Mixture
from jensen.recipes.families.reader import Reader
from jensen.recipes.families.score import Score, ScoreNetwork, ScoreSampling
from jensen.recipes.families.translation import Network as TranslationNetwork
from jensen.recipes.families.translation import Shown, Translation
from jensen.recipes.families.vae import VAE, Autoencoder, Bound
from jensen.recipes.families.vae import Network as VAENetwork
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.arrays import IDX
from jensen.recipes.sources.captcha import Captcha
from jensen.recipes.sources.digits import Digits
from jensen.recipes.sources.points import Grid, Moons, Ring
from jensen.recipes.sources.sprites import Sprites
from jensen.recipes.sources.stacked import StackedDigits
from jensen.recipes.sources.two import HandwrittenPrinted

CAPTCHA = [
    Recipe(
        name="captcha",
        about="text-conditional diffusion that draws CAPTCHA pictures",
        data=Captcha(),
        family=Diffusion(
            network=DiffusionNetwork(kind="unet", blocks=2, schedule="rectified", output="flow"),
            loss=DiffusionLoss(name="flow", times="logit-normal", time_mean=0.5),
            sampling=DiffusionSampling(
                sampler="ancestral", steps=16, guidance=4.0, shift=3.0, start=1.0, clip=True, precision="bfloat16"
            ),
        ),
        training=Training(minutes=5, precision="bfloat16", previews=8),
        judging=Judging(samples=1000, rows=1000, scales=(1.0, 2.0, 6.0), steps=(), bound_steps=0, ode_rows=0),
    ),
    Recipe(
        name="captcha-reader",
        about="reader of CAPTCHA pictures, trained on classical ones only",
        data=Captcha(pictures=120_000, test=4000),
        family=Reader(),
        training=Training(
            steps=2400, batch_size=128, rate=3e-3, warmup=240, decay=0.9, average=0.99, precision="bfloat16"
        ),
        judging=Judging(rows=4000),
    ),
]

latent = partial(Training, batch_size=128, average=0.99, save_every=1000, log_every=50, previews=6)
INK = Digits(scale="ink")
VAES = [
    Recipe(
        name="digits-vae",
        about="variational autoencoder of scikit-learn's handwritten digits, black and white",
        data=INK,
        family=VAE(),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-iwae",
        about="variational autoencoder of digits, trained by the importance-weighted bound",
        data=INK,
        family=VAE(bound=Bound(name="iwae", samples=10, gradient="dreg")),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-hvae",
        about="hierarchical variational autoencoder of digits, two layers of latents",
        data=INK,
        family=VAE(
            network=VAENetwork(latents=(16, 8), direction="ladder"), bound=Bound(warm="linear", warm_steps=1000)
        ),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-beta-vae",
        about="variational autoencoder of digits whose KL term is weighted by 2",
        data=INK,
        family=VAE(bound=Bound(beta=2.0)),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-categorical",
        about="variational autoencoder of digits with categorical latents",
        data=INK,
        family=VAE(network=VAENetwork(latents=(12,), kind="categorical"), bound=Bound(samples=8)),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-grey-vae",
        about="variational autoencoder of digits in 17 levels of grey",
        data=Digits(),
        family=VAE(),
        training=latent(steps=3000),
    ),
    Recipe(
        name="digits-svi",
        about="digits by stochastic variational inference: a posterior of its own for every example, no encoder",
        data=INK,
        family=VAE(inference="per-datum"),
        training=latent(steps=6000),
        judging=Judging(importance=1000, rows=100, refine_rows=50),
    ),
    Recipe(
        name="digits-autoencoder",
        about="deterministic autoencoder of digits, with a Gaussian fitted to its codes",
        data=INK,
        family=Autoencoder(),
        training=latent(steps=3000),
    ),
    Recipe(
        name="mnist-vae",
        about="variational autoencoder of the pictures of an IDX file (data.images=PATH), such as MNIST's",
        data=IDX(levels=2),
        family=VAE(network=VAENetwork(latents=(32,), hidden=512)),
        training=latent(steps=8000, rate=1e-3),
    ),
    Recipe(
        name="sprites-vae",
        about="variational autoencoder of drawn shapes whose factors are known",
        data=Sprites(),
        family=VAE(network=VAENetwork(latents=(10,))),
        training=latent(steps=4000),
        judging=Judging(importance=1000, rows=200, refine_rows=60),
    ),
    Recipe(
        name="sprites-beta-vae",
        about="variational autoencoder of drawn shapes whose KL term is weighted by 4",
        data=Sprites(),
        family=VAE(network=VAENetwork(latents=(10,)), bound=Bound(beta=4.0)),
        training=latent(steps=4000),
        judging=Judging(importance=1000, rows=200, refine_rows=60),
    ),
]

denoising = partial(Training, batch_size=256, save_every=2000, log_every=100, previews=6)
DIFFUSIONS = [
    Recipe(
        name="moons-diffusion",
        about="diffusion model of two moons, whose density is known",
        data=Moons(),
        family=Diffusion(network=DiffusionNetwork(width=128)),
        training=denoising(steps=6000),
    ),
    Recipe(
        name="digits-ddpm",
        about="class-conditional diffusion model of handwritten digits",
        data=Digits(),
        family=Diffusion(
            network=DiffusionNetwork(dropout=0.2),
            sampling=DiffusionSampling(sampler="ancestral", guidance=2.0, clip=True),
        ),
        training=denoising(steps=4000),
        judging=Judging(samples=1000, ode_rows=360),
    ),
    Recipe(
        name="digits-vdm",
        about="variational diffusion model of digits: trained by its bound, with a learned schedule",
        data=Digits(),
        family=Diffusion(
            network=DiffusionNetwork(schedule="learned", dropout=0.2),
            loss=DiffusionLoss(name="bound"),
            sampling=DiffusionSampling(sampler="ancestral", start=1.0, clip=True),
        ),
        training=denoising(steps=1500),
        judging=Judging(samples=1000, ode_rows=360),
    ),
    Recipe(
        name="digits-unconditional",
        about="diffusion model of digits that is never given a class",
        data=Digits(),
        family=Diffusion(
            network=DiffusionNetwork(dropout=0.2),
            loss=DiffusionLoss(drop=1.0),
            sampling=DiffusionSampling(sampler="ancestral", clip=True),
        ),
        training=denoising(steps=4000),
        judging=Judging(samples=1000, ode_rows=360),
    ),
    Recipe(
        name="digits-learned-variance",
        about="diffusion model of digits that learns the variances of its reverse steps",
        data=Digits(),
        family=Diffusion(
            network=DiffusionNetwork(dropout=0.2),
            loss=DiffusionLoss(variance="learned"),
            sampling=DiffusionSampling(sampler="ancestral", variance="learned", steps=200, guidance=2.0, clip=True),
        ),
        training=denoising(steps=4000),
        judging=Judging(samples=1000, ode_rows=0, steps=(32,)),
    ),
]

points = partial(
    Training, average=0.99, save_every=2000, log_every=100, previews=6, clip=None, weight_decay=0.0, rate=1e-3
)
GRID = GANNetwork(critic_width=64, waves=16)
digits = partial(points, batch_size=64, average=0.999, rate=2e-3, betas=(0.0, 0.99))
GANS = [
    Recipe(
        name="ring-gan",
        about="GAN of points on a ring of eight modes",
        data=Ring(),
        family=GAN(),
        training=points(steps=5000, batch_size=256, betas=(0.5, 0.999)),
    ),
    Recipe(
        name="grid-gan",
        about="GAN of points on a grid of twenty-five modes",
        data=Grid(),
        family=GAN(network=GRID, game=Game(penalty="r1", penalty_weight=0.1)),
        training=points(steps=10_000, batch_size=128, rate=2e-3, betas=(0.0, 0.999)),
    ),
    Recipe(
        name="grid-pacgan",
        about="GAN of points on a grid of twenty-five modes whose critic sees two at a time",
        data=Grid(),
        family=GAN(network=GRID, game=Game(packing=2, penalty="r1", penalty_weight=0.1)),
        training=points(steps=10_000, batch_size=128, rate=2e-3, betas=(0.0, 0.999)),
    ),
    Recipe(
        name="digits-gan",
        about="GAN of handwritten digits, with R1",
        data=Digits(),
        family=GAN(game=Game(penalty="r1", penalty_weight=0.3)),
        training=digits(steps=6000),
        judging=Judging(critic_steps=500),
    ),
    Recipe(
        name="digits-exponential-gan",
        about="GAN of handwritten digits with the exponential loss: Hellinger's distance",
        data=Digits(),
        family=GAN(game=Game(loss="exponential", penalty="r1", penalty_weight=1.0)),
        training=digits(steps=6000),
        judging=Judging(critic_steps=500),
    ),
    Recipe(
        name="digits-wgan",
        about="Wasserstein GAN of handwritten digits, with a gradient penalty",
        data=Digits(),
        family=GAN(game=Game(loss="wasserstein", critic_steps=5, penalty="wgan-gp", penalty_weight=10.0)),
        training=digits(steps=2500, rate=1e-3, betas=(0.0, 0.9)),
        judging=Judging(critic_steps=500),
    ),
    Recipe(
        name="digits-sngan",
        about="GAN of handwritten digits whose critic is spectrally normalised",
        data=Digits(),
        family=GAN(network=GANNetwork(spectral=True), game=Game(loss="hinge")),
        training=digits(steps=6000),
        judging=Judging(critic_steps=500),
    ),
    Recipe(
        name="stacked-digits-gan",
        about="GAN of stacked handwritten digits, three to a picture, with a thousand modes",
        data=StackedDigits(),
        family=GAN(
            network=GANNetwork(latents=64, width=16, critic_width=512), game=Game(penalty="r1", penalty_weight=0.3)
        ),
        training=digits(steps=5000, batch_size=128),
        judging=Judging(critic_steps=1000),
    ),
]

translating = partial(
    Training,
    batch_size=32,
    warmup=50,
    decay=0.5,
    clip=None,
    average=0.99,
    save_every=500,
    log_every=25,
    previews=6,
    weight_decay=0.0,
    rate=2e-3,
    rates={"critics": 1e-3},
    betas=(0.5, 0.99),
)
TRANSLATIONS = [
    Recipe(
        name="digits-cyclegan",
        about="handwritten digits as printed ones and back, from unpaired pictures",
        data=HandwrittenPrinted(),
        family=Translation(network=TranslationNetwork(width=32, blocks=2, patch=2, critic=(64, 128, 128))),
        training=translating(steps=3000),
    ),
    Recipe(
        name="digits-pix2pix",
        about="handwritten digits as printed ones and back, from pairs of one label",
        data=HandwrittenPrinted(pairing="by-class"),
        family=Translation(pairing="paired", shown=Shown(noise=0.0, noise_end=0.0)),
        training=translating(steps=600),
    ),
]

SCORES = [
    Recipe(
        name="moons-score",
        about="score model of two moons, whose score is known",
        data=Moons(),
        family=Score(network=ScoreNetwork(width=128), sampling=ScoreSampling(steps=30)),
        training=denoising(steps=5000),
    ),
    Recipe(
        name="digits-score",
        about="score model of handwritten digits",
        data=Digits(),
        family=Score(network=ScoreNetwork(dropout=0.2, largest=20.0, smallest=0.1, levels=16)),
        training=denoising(steps=3000),
        judging=Judging(samples=1000, ode_rows=360),
    ),
]

EXACT = [
    Recipe(
        name="moons-kernel",
        about="kernel density of two moons",
        data=Moons(points=2000),
        family=Kernel(),
        training=Training(steps=1, previews=1),
    ),
    Recipe(
        name="moons-mixture",
        about="Gaussian mixture of two moons by mean-field coordinate ascent",
        data=Moons(points=2000),
        family=Mixture(),
        training=Training(steps=1, previews=1),
    ),
]

PRESETS: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*CAPTCHA, *VAES, *DIFFUSIONS, *SCORES, *GANS, *TRANSLATIONS, *EXACT)
}
