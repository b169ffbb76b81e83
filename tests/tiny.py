"""Settings for all presets, with which each trains and is judged in a second or two."""

from __future__ import annotations

import json

COMMON = {"training.batch_size": 8, "training.previews": 1, "training.log_every": 2, "training.save_every": 2}
JUDGED = {"judging.samples": 20, "judging.rows": 16, "judging.mode_samples": 1}
LATENT = JUDGED | {
    "network.hidden": 16,
    "judging.importance": 20,
    "judging.refine_rows": 4,
    "judging.refine_steps": 5,
}
DENOISED = JUDGED | {"network.width": 16, "network.blocks": 1, "judging.steps": [2, 3], "judging.ode_rows": 4}
DIFFUSION = DENOISED | {"judging.bound_steps": 5, "sampling.steps": 4}
SCORE = DENOISED | {"network.levels": 4, "sampling.steps": 3}
POINTS = {"data.points": 100, "data.test": 20}
GAN = JUDGED | {"judging.critic_steps": 3, "network.critic_width": 16}
POINTS_GAN = GAN | POINTS | {"network.width": 16}
DIGITS_GAN = GAN | {"network.width": 4}
TRANSLATION = JUDGED | {
    "network.width": 8,
    "network.blocks": 1,
    "network.critic": [8],
    "data.printed": 60,
    "data.test": 40,
}
CAPTCHA = JUDGED | {
    "data.pictures": 64,
    "data.test": 20,
    "network.widths": [8, 16],
    "network.blocks": 1,
    "sampling.steps": 2,
    "judging.scales": [1.0],
}
SPRITES = LATENT | {
    "data.size": 10,
    "data.scales": 2,
    "data.orientations": 2,
    "data.positions": 4,
    "data.test": 30,
    "network.latents": [3],
}
READING = {"data.pictures": 64, "data.test": 20, "judging.rows": 16}
TINY = {
    "captcha": CAPTCHA,
    "captcha-release": CAPTCHA,
    "captcha-reader": READING,
    "captcha-release-reader": READING,
    "captcha-release-second-reader": READING,
    "digits-vae": LATENT,
    "digits-iwae": LATENT,
    "digits-hvae": LATENT,
    "digits-beta-vae": LATENT,
    "digits-categorical": LATENT,
    "digits-grey-vae": LATENT,
    "digits-svi": LATENT,
    "digits-autoencoder": JUDGED | {"network.hidden": 16},
    "sprites-vae": SPRITES,
    "sprites-beta-vae": SPRITES,
    "moons-diffusion": DIFFUSION | POINTS,
    "digits-ddpm": DIFFUSION,
    "digits-vdm": DIFFUSION,
    "digits-edm": DIFFUSION,
    "digits-unconditional": DIFFUSION,
    "digits-learned-variance": DIFFUSION,
    "moons-score": SCORE | POINTS,
    "digits-score": SCORE,
    "ring-gan": POINTS_GAN,
    "grid-gan": POINTS_GAN,
    "grid-pacgan": POINTS_GAN,
    "digits-gan": DIGITS_GAN,
    "digits-wgan": DIGITS_GAN,
    "digits-sngan": DIGITS_GAN,
    "digits-exponential-gan": DIGITS_GAN,
    "stacked-digits-gan": DIGITS_GAN | POINTS,
    "digits-cyclegan": TRANSLATION | {"weights.pool": 4},
    "digits-pix2pix": TRANSLATION,
    "moons-kernel": JUDGED | POINTS,
    "moons-vae": LATENT | POINTS,
    "moons-mixture": JUDGED | POINTS,
}


def words_of(settings):
    """The settings as `--set` arguments."""
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [word for key, value in said.items() for word in ("--set", f"{key}={value}")]


def tiny(name, **more):
    """The arguments for a small version of a preset."""
    return words_of(TINY[name] | COMMON | {key.replace("__", "."): value for key, value in more.items()})
