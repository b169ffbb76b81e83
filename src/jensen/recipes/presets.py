"""Recipes by name. Each preset writes down only what differs from the defaults of its data and its family."""

from __future__ import annotations

from functools import partial

from jensen.judging.settings import Judging
from jensen.recipes.families.autoencoder import Autoencoder, Narrow
from jensen.recipes.families.base import Family
from jensen.recipes.families.diffusion import Diffusion, DiffusionLoss, DiffusionNetwork, DiffusionSampling
from jensen.recipes.families.gan import GAN, Game
from jensen.recipes.families.gan import Network as GANNetwork
from jensen.recipes.families.kernel import Kernel, KernelSettings
from jensen.recipes.families.mixture import Mixture
from jensen.recipes.families.reader import Reader
from jensen.recipes.families.score import Score, ScoreNetwork, ScoreSampling
from jensen.recipes.families.translation import Network as TranslationNetwork
from jensen.recipes.families.translation import Shown, Translation
from jensen.recipes.families.vae import VAE, Bound
from jensen.recipes.families.vae import Network as VAENetwork
from jensen.recipes.recipe import Recipe
from jensen.recipes.settings import Training
from jensen.recipes.sources.arrays import Arrays
from jensen.recipes.sources.base import Source
from jensen.recipes.sources.captcha import Captcha
from jensen.recipes.sources.digits import Digits
from jensen.recipes.sources.points import Grid, Moons, Ring
from jensen.recipes.sources.sprites import Sprites
from jensen.recipes.sources.stacked import StackedDigits
from jensen.recipes.sources.two import HandwrittenPrinted

ABOUT = {
    "captcha": "text-conditional diffusion that draws CAPTCHA pictures",
    "captcha-reader": "reader of CAPTCHA pictures, trained only on pictures drawn by the captcha package",
    "captcha-release-reader": "reader of the pictures of captcha-release, which its pool of pictures is filtered by",
    "captcha-release-second-reader": "another reader of captcha-release, of other fonts, seed and network, for judging",
    "captcha-release": "text-conditional diffusion that draws large CAPTCHA pictures in named fonts, papers and inks",
    "digits-vae": "variational autoencoder of black-and-white digits",
    "digits-iwae": "variational autoencoder of digits, trained by the importance-weighted bound",
    "digits-hvae": "hierarchical variational autoencoder of digits, two layers of latents",
    "digits-beta-vae": "variational autoencoder of digits whose KL term is weighted by 2",
    "digits-categorical": "variational autoencoder of digits with categorical latents",
    "digits-grey-vae": "variational autoencoder of digits in 17 grey levels",
    "digits-svi": "digits by stochastic variational inference: a separate posterior for each example, no encoder",
    "digits-autoencoder": "deterministic autoencoder of digits",
    "mnist-vae": "variational autoencoder of the pictures of an IDX file (--data PATH), such as MNIST's",
    "sprites-vae": "variational autoencoder of drawn shapes with known factors",
    "sprites-beta-vae": "variational autoencoder of drawn shapes whose KL term is weighted by 4",
    "moons-vae": "variational autoencoder of two moons: learned prior, Gaussian decoder with learned variances",
    "moons-mixture": "Gaussian mixture of two moons by mean-field coordinate ascent",
    "moons-diffusion": "diffusion model of two moons, with known density",
    "digits-ddpm": "class-conditional diffusion model of digits",
    "digits-vdm": "variational diffusion model of digits: trained by its bound, with a learned schedule",
    "digits-edm": "class-conditional diffusion model of digits with the settings of EDM (Karras et al., 2022)",
    "digits-unconditional": "unconditional diffusion model of digits",
    "digits-learned-variance": "diffusion model of digits that learns the variances of its reverse steps",
    "moons-score": "score model of two moons, with known score",
    "digits-score": "score model of digits",
    "moons-kernel": "kernel density estimate of two moons",
    "ring-gan": "GAN of points on a ring of eight modes",
    "grid-gan": "GAN of points on a grid of twenty-five modes",
    "grid-pacgan": "GAN of points on a grid of twenty-five modes whose critic sees two points at a time (PacGAN)",
    "digits-gan": "GAN of digits with an R1 penalty",
    "digits-exponential-gan": "GAN of digits with the exponential loss (Hellinger distance)",
    "digits-wgan": "Wasserstein GAN of digits with a gradient penalty",
    "digits-sngan": "GAN of digits with spectral normalisation of the critic",
    "stacked-digits-gan": "GAN of stacked digits, three in each picture: a thousand modes",
    "digits-cyclegan": "translation between handwritten and printed digits, trained on unpaired pictures (CycleGAN)",
    "digits-pix2pix": "translation between handwritten and printed digits, trained on pairs of one class (pix2pix)",
}
"""One line about each recipe."""


def preset(
    name: str, data: Source, family: Family, training: Training, judging: Judging | None = None, seed: int = 0
) -> Recipe:
    """One row of the table below."""
    judging = judging or Judging()
    about = ABOUT[name]
    return Recipe(name=name, about=about, seed=seed, data=data, family=family, training=training, judging=judging)


INK, GREY, MOONS, SPRITES, GRID = Digits(scale="ink"), Digits(), Moons(), Sprites(), Grid()

latent = partial(Training, steps=3000, batch_size=128, average=0.99, save_every=1000, log_every=50, previews=6)
layers = partial(VAENetwork, kind="mlp", hidden=256, depth=2)
shapes = partial(VAE, network=layers(latents=(10,)))
plain = partial(VAE, network=layers())
SHAPES = Judging(importance=1000, rows=200, refine_rows=60)

denoising = partial(Training, steps=4000, batch_size=256, save_every=2000, log_every=100, previews=6)
drawn = partial(DiffusionSampling, sampler="ancestral", clip=True)
DROPOUT = DiffusionNetwork(width=256, dropout=0.2)
LIKELY = Judging(samples=1000, ode_rows=360)

playing = partial(
    Training, average=0.99, save_every=2000, log_every=100, previews=6, clip=None, weight_decay=0.0, rate=1e-3
)
pictures = partial(playing, steps=6000, batch_size=64, average=0.999, rate=2e-3, betas=(0.0, 0.99))
on_grid = partial(playing, steps=10_000, batch_size=128, rate=2e-3, betas=(0.0, 0.999))
players = partial(GANNetwork, latents=2, width=128, layers=3, critic_width=128, critic_layers=3)
FOURIER = players(critic_width=64, fourier_features=16)
drawers = partial(GANNetwork, latents=32, width=32, critic_width=256, critic_layers=2)
CRITIC = Judging(critic_steps=500)
r1 = partial(Game, penalty="r1")

translating = partial(playing, batch_size=32, warmup=50, decay=0.5, save_every=500, log_every=25, betas=(0.5, 0.99))
OTHER_FONTS = (
    *("DejaVuSans", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "cmss10"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmb10", "cmr10"),
)
RELEASE = Captcha(
    alphabet="ACDEFHJKLMNPRTVWXY234679",
    length=6,
    shortest=5,
    height=48,
    width=144,
    ink=(60, 110),
    colour=True,
    fonts=(
        *("DroidSansMono", "DejaVuSans-Bold", "DejaVuSerif-Bold", "STIXGeneralBolIta", "cmtt10"),
        "DejaVuSansMono-BoldOblique",
    ),
    papers=("plain", "stripes", "dots", "grid", "rings", "clouds"),
    inks=("red", "orange", "green", "teal", "blue", "violet"),
    pictures=60_000,
)

TRANSLATORS = {"rate": 2e-3, "rates": {"critics": 1e-3}}

RECIPES = (
    preset(
        "captcha",
        Captcha(),
        Diffusion(
            network=DiffusionNetwork(
                kind="unet", widths=(96, 192), blocks=2, patch=4, attention=0, schedule="rectified", output="flow"
            ),
            loss=DiffusionLoss(name="flow", times="logit-normal", time_mean=0.5),
            sampling=drawn(steps=16, guidance=4.0, shift=3.0, start=1.0, precision="auto"),
        ),
        Training(minutes=5, precision="auto", previews=8),
        Judging(samples=1000, rows=1000, scales=(1.0, 2.0, 6.0), steps=(), bound_steps=0, ode_rows=0),
    ),
    preset(
        "captcha-reader",
        Captcha(pictures=120_000, test=4000),
        Reader(),
        latent(steps=2400, rate=3e-3, warmup=240, decay=0.9, precision="auto"),
        Judging(rows=4000),
    ),
    preset(
        "captcha-release",
        RELEASE,
        Diffusion(
            network=DiffusionNetwork(
                kind="unet", widths=(96, 192), blocks=2, patch=4, attention=18, schedule="rectified", output="flow"
            ),
            loss=DiffusionLoss(name="flow", times="logit-normal", time_mean=1.0),
            sampling=drawn(
                steps=16,
                guidance=7.0,
                style_guidance=4.0,
                guidance_interval=(0.5, 1.0),
                shift=4.0,
                start=1.0,
                precision="auto",
            ),
        ),
        Training(minutes=120, average=0.999, precision="auto", save_every=1000),
        Judging(samples=1000, rows=1000, scales=(2.0,), steps=(), bound_steps=0, ode_rows=0),
    ),
    preset(
        "captcha-release-reader",
        RELEASE.model_copy(update={"pictures": 50_000}),
        Reader(shift=4),
        latent(steps=None, minutes=20, rate=3e-3, warmup=200, decay=0.9, precision="auto"),
        Judging(rows=2000),
    ),
    preset(
        "captcha-release-second-reader",
        RELEASE.model_copy(update={"pictures": 50_000, "fonts": OTHER_FONTS}),
        Reader(shift=4, texts="attention"),
        latent(steps=None, minutes=20, rate=1e-3, warmup=250, decay=0.7, precision="auto"),
        Judging(rows=2000),
        seed=1,
    ),
    # variational -----------------------------------------------------------------------
    preset("digits-vae", INK, plain(), latent()),
    preset("digits-iwae", INK, plain(bound=Bound(name="iwae", samples=10, gradient="dreg")), latent()),
    preset(
        "digits-hvae",
        INK,
        VAE(network=layers(latents=(16, 8), direction="ladder"), bound=Bound(warm="linear", warm_steps=1000)),
        latent(),
    ),
    preset("digits-beta-vae", INK, plain(bound=Bound(beta=2.0)), latent()),
    preset(
        "digits-categorical",
        INK,
        VAE(network=layers(latents=(12,), latent="categorical"), bound=Bound(samples=8)),
        latent(),
    ),
    preset("digits-grey-vae", GREY, plain(), latent()),
    preset(
        "digits-svi",
        INK,
        plain(inference="per-datum"),
        latent(steps=6000),
        Judging(importance=1000, rows=100, refine_rows=50),
    ),
    preset("digits-autoencoder", INK, Autoencoder(network=Narrow(kind="mlp", hidden=256, depth=2)), latent()),
    preset(
        "mnist-vae",
        Arrays(levels=2),
        VAE(network=layers(latents=(32,), hidden=512)),
        latent(steps=8000, rate=1e-3),
        Judging(rows=360),
    ),
    preset("sprites-vae", SPRITES, shapes(), latent(steps=4000), SHAPES),
    preset("sprites-beta-vae", SPRITES, shapes(bound=Bound(beta=4.0)), latent(steps=4000), SHAPES),
    preset(
        "moons-vae",
        MOONS,
        VAE(network=layers(latents=(2,)), prior="learned"),
        latent(steps=4000),
        Judging(importance=500, rows=500),
    ),
    preset("moons-mixture", Moons(points=2000), Mixture(), Training(steps=1, previews=1)),
    # diffusion -------------------------------------------------------------------------
    preset("moons-diffusion", MOONS, Diffusion(network=DiffusionNetwork(width=128)), denoising(steps=6000)),
    preset("digits-ddpm", GREY, Diffusion(network=DROPOUT, sampling=drawn(guidance=2.0)), denoising(), LIKELY),
    preset(
        "digits-vdm",
        GREY,
        Diffusion(
            network=DiffusionNetwork(width=256, schedule="learned", dropout=0.2),
            loss=DiffusionLoss(name="bound"),
            sampling=drawn(start=1.0),
        ),
        denoising(steps=1500),
        LIKELY,
    ),
    preset(
        "digits-edm",
        GREY,
        Diffusion(
            network=DiffusionNetwork(width=256, dropout=0.2, schedule="edm", output="edm"),
            loss=DiffusionLoss(name="edm", times="log-normal", time_mean=-1.2, time_std=1.2),
            sampling=DiffusionSampling(sampler="heun", steps=17, grid="karras", start=1.0, denoise=True),
        ),
        denoising(),
        LIKELY,
    ),
    preset(
        "digits-unconditional",
        GREY,
        Diffusion(network=DROPOUT, loss=DiffusionLoss(drop=1.0), sampling=drawn()),
        denoising(),
        LIKELY,
    ),
    preset(
        "digits-learned-variance",
        GREY,
        Diffusion(
            network=DROPOUT,
            loss=DiffusionLoss(variance="learned"),
            sampling=drawn(variance="learned", steps=200, guidance=2.0),
        ),
        denoising(),
        Judging(samples=1000, ode_rows=0, steps=(32,)),
    ),
    # score -----------------------------------------------------------------------------
    preset(
        "moons-score",
        MOONS,
        Score(network=ScoreNetwork(width=128)),
        denoising(steps=5000),
        Judging(steps=(1, 2, 5, 10, 20)),
    ),
    preset(
        "digits-score",
        GREY,
        Score(
            network=ScoreNetwork(width=256, dropout=0.2, largest=20.0, smallest=0.1, levels=16),
            sampling=ScoreSampling(sampler="dpm++", steps=20),
        ),
        denoising(steps=3000),
        LIKELY,
    ),
    preset(
        "moons-kernel",
        Moons(points=2000),
        Kernel(density=KernelSettings(bandwidth="leave-one-out")),
        Training(steps=1, previews=1),
    ),
    # adversarial -----------------------------------------------------------------------
    preset("ring-gan", Ring(), GAN(network=players()), playing(steps=5000, batch_size=256, betas=(0.5, 0.999))),
    preset("grid-gan", GRID, GAN(network=FOURIER, game=r1(penalty_weight=0.1)), on_grid()),
    preset("grid-pacgan", GRID, GAN(network=FOURIER, game=r1(penalty_weight=0.1, packing=2)), on_grid()),
    preset("digits-gan", GREY, GAN(network=drawers(), game=r1(penalty_weight=0.3)), pictures(), CRITIC),
    preset("digits-exponential-gan", GREY, GAN(network=drawers(), game=r1(loss="exponential")), pictures(), CRITIC),
    preset(
        "digits-wgan",
        GREY,
        GAN(network=drawers(), game=Game(loss="wasserstein", critic_steps=5, penalty="wgan-gp", penalty_weight=10.0)),
        pictures(steps=2500, rate=1e-3, betas=(0.0, 0.9)),
        CRITIC,
    ),
    preset("digits-sngan", GREY, GAN(network=drawers(spectral=True), game=Game(loss="hinge")), pictures(), CRITIC),
    preset(
        "stacked-digits-gan",
        StackedDigits(),
        GAN(network=drawers(latents=64, width=16, critic_width=512), game=r1(penalty_weight=0.3)),
        pictures(steps=5000, batch_size=128),
        Judging(critic_steps=1000),
    ),
    preset(
        "digits-cyclegan",
        HandwrittenPrinted(),
        Translation(network=TranslationNetwork(width=32, blocks=2, patch=2, critic=(64, 128, 128))),
        translating(steps=3000, **TRANSLATORS),
    ),
    preset(
        "digits-pix2pix",
        HandwrittenPrinted(pairing="by-class", jitter=0),
        Translation(pairing="paired", shown=Shown(noise=0.0, noise_end=0.0)),
        translating(steps=600, **TRANSLATORS),
    ),
)

PRESETS: dict[str, Recipe] = {recipe.name: recipe for recipe in RECIPES}
