# %% [markdown]
# # A VAE, a GAN and a diffusion model of handwritten digits, compared
#
# Three ways to learn to draw digits. They share nothing but the data: a variational autoencoder maximises a lower
# bound on $\log p(x)$, a generator plays against a critic, a diffusion model removes noise. None of them is given the
# classes. Then all three are evaluated in the same way: every number has a standard error and the value that real data
# would get, and the samples are judged by the GAN's own critic and by a discriminator that is trained from scratch.
#
# The data are scikit-learn's 8 x 8 digits, or any file in MNIST's IDX format, such as its 28 x 28 digits: set the
# environment variable `JENSEN_DIGITS` to its path. After the first code cell, the cells can be run in any order, any
# number of times. Every number is a function of the seed. Runs are folders: a finished run is opened, an interrupted
# one is resumed; delete `runs/gan_vae` to train again.

# %%
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

import jensen
from jensen.data.dataset import some
from jensen.metrics import bits_per_dim
from jensen.report.gallery import gallery
from jensen.runs.comparison import parts, write_comparison

DIGITS = os.environ.get("JENSEN_DIGITS", "digits")  # path of an IDX file; digits: scikit-learn's
SCALE = 1.0  # factor of the numbers of training steps, samples and draws
SEED = 0
RUNS = Path("runs/gan_vae")
STEPS = {"vae": 2000, "gan": 2500, "diffusion": 3000}


def scaled(n, least):
    """A number of steps, samples or draws."""
    return max(least, round(SCALE * n))


@cache
def digits():
    """The data: training and held-out rows."""
    return jensen.load_data(DIGITS)


@cache
def trained(name):
    """A run of a family with its usual settings, without classes: trained, resumed or opened."""
    settings = {"training.previews": 0}
    if name == "diffusion" and digits().space.cond is not None:
        settings["loss.drop"] = 1.0  # the share of examples that are trained without their class
    where, steps = RUNS / name, scaled(STEPS[name], 4)
    return jensen.train(name, where, data=DIGITS, steps=steps, seed=SEED, settings=settings, resume=where.exists())


@cache
def compared():
    """The comparison of the three runs."""
    return jensen.compare(*map(trained, STEPS), n=scaled(1000, 40), seed=SEED, judge_steps=scaled(500, 5))


def show(x, name):
    """Save pictures (N, 1, H, W) on a sheet, and display it in a notebook."""
    image = gallery(x, columns=16, scale=max(1, 40 // x.shape[-1]))
    image.save(RUNS / f"{name}.png")
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        return
    display(image)


def tabulate(head, rows):
    """Print a table."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    print("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines))


@cache
def tables():
    """The tables of the comparison by title, without what depends on the speed of the machine."""
    timeless = replace(compared(), contestants=[replace(c, cost=None) for c in compared().contestants])
    return {part.title: part.tables[0] for part in parts(timeless) if part.tables}


def report(title):
    """Print a table of the comparison."""
    tabulate(tables()[title].head, tables()[title].rows)


RUNS.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## The data
#
# No model is trained on the held-out pictures, and every evaluation uses them.

# %%
print(f"{digits().name}: {len(digits().train):,} training pictures, {len(digits().test):,} held out")
test = some(digits().test)["x"]
show(test[:48], "data")

# %% [markdown]
# ## The variational autoencoder
#
# An encoder $q(z|x)$, a decoder $p(x|z)$, a prior $p(z)$; Jensen's inequality gives the bound that is maximised: $\log
# p(x) \ge E_q[\log p(x|z)] - KL(q(z|x) \| p(z))$. The decoder gives each pixel a distribution over its levels of grey,
# so $p(x)$ is the probability of a picture. Samples are draws from $p(x|z)$; the second sheet shows its means.

# %%
show(trained("vae").sample(48, seed=7).x, "samples-vae")
show(trained("vae").sample(48, seed=7, mean=True).x, "means-vae")

# %% [markdown]
# ## The generator and its critic
#
# $x = G(z)$ and nothing else: no density, no bound. The critic learns to give data higher values than samples (a
# relativistic loss), the generator learns to reverse the order. Penalties on the critic's gradient at the data and at
# the samples (R1 and R2) keep the two from oscillating.

# %%
show(trained("gan").sample(48, seed=7).x, "samples-gan")

# %% [markdown]
# ## The diffusion model
#
# $z_t = \alpha_t x + \sigma_t \epsilon$ for $t$ from 0 to 1; a network learns to predict $x$ from $z_t$. Sampling
# starts from noise at $t = 1$ and removes it step by step.

# %%
show(trained("diffusion").sample(48, seed=7).x, "samples-diffusion")

# %% [markdown]
# The first 48 samples of one seed are shown, none of them chosen.
#
# ## Interpolation
#
# Between two draws of noise, along a great circle.

# %%
for name in STEPS:
    show(trained(name).interpolate(4, 16, seed=7).x, f"between-{name}")

# %% [markdown]
# ## Reconstruction
#
# Held-out pictures, and below them the VAE's means of $p(x|z)$ at the mean of $q(z|x)$. The GAN has no encoder.

# %%
first = some(digits().test)["x"][:16]
show(torch.cat([first, trained("vae").reconstruct(first)]), "rebuilt")

# %% [markdown]
# ## Likelihood
#
# Mean $\log p(x)$ of held-out pictures, in nats: for the VAE an estimate by importance sampling, for the diffusion
# model the variational bound in continuous time. Both are probabilities of the same discrete pictures, so they can be
# ranked; the true log-likelihood may be higher than a bound. The GAN has no likelihood.

# %%
x = some(digits().test)["x"][: scaled(200, 8)]
likelihoods = {
    "vae": trained("vae").log_likelihood(x, draws=scaled(500, 5)),
    "diffusion": trained("diffusion").log_likelihood(x),
}
rows = []
for name, found in likelihoods.items():
    mean, stderr = found.value.mean(), found.value.std() / len(x) ** 0.5
    bits = bits_per_dim(mean, x[0].numel())
    rows.append((name, found.kind, f"{mean:.2f} ± {stderr:.2f}", f"{bits:.4f}"))
tabulate(("run", "kind", "nats", "bits per dimension"), rows)

# %% [markdown]
# ## Samples compared with data
#
# The samples of each model are compared with the held-out digits, by the features that are named below. The column
# "floor" has the same numbers for training digits in place of samples. No model can be expected to be better, and a
# number within two standard errors of it is as good as that of real data.

# %%
print(f"{compared().n} samples of each, by {compared().features}\n")
report("Metrics")

# %% [markdown]
# ## Discriminators
#
# For each model a discriminator with the same network, budget and real data is trained from scratch to distinguish
# samples from data, and tested on samples and data that it has not seen. An AUC of 1/2 means that it cannot. The last
# row is the critic that the GAN was trained with. It has only seen samples of its own generator, which learned to fool
# it, so its AUC may be below 1/2 there, and it is no fair judge of the others.

# %%
report("Discriminators")
floor = compared().judged_floor
print("\naccuracy of the fresh discriminator during its training")
print("steps".ljust(12) + "".join(f"{step:>7}" for step in floor.steps))
for name, judged in [("floor", floor), *((c.name, c.judgement) for c in compared().contestants)]:
    print(name.ljust(12) + "".join(f"{100 * value:6.0f}%" for value in judged.curve))

# %% [markdown]
# ## Costs

# %%
costs = [(c.name, c.cost) for c in compared().contestants]
rows = [(name, f"{cost.steps:,}", f"{cost.parameters:,}", cost.evaluations) for name, cost in costs]
tabulate(("run", "training steps", "parameters", "network calls per sample"), rows)

# %% [markdown]
# ## Summary
#
# Where a model is better, or worse, than both others by more than two standard errors of the difference.

# %%
report("Summary")
write_comparison(compared(), RUNS / "compare.html")
