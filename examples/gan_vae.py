# %% [markdown]
# # A VAE, a GAN and a diffusion model of handwritten digits, compared
#
# Three ways to learn to draw from 1,437 pictures of digits, 8 by 8 pixels with 17 levels of grey. They share
# nothing but the data: a variational autoencoder maximises a lower bound on $\log p(x)$, a generator plays against
# a critic, a diffusion model removes noise. Then all three are evaluated in the same way: every number has a standard
# error and the value that real data would get, and a fresh discriminator is trained from scratch for each.
#
# Every cell is a function of its seed. Runs are folders: a cell that is run again uses the finished run, or
# resumes it; delete `runs/gan_vae` to train again. It takes some minutes on two cores.

# %%
from pathlib import Path

import torch

import jensen
from jensen.core.seeding import drawing, generator
from jensen.data.dataset import some
from jensen.report.gallery import gallery
from jensen.runs.compare import compare
from jensen.runs.comparison import parts, write_comparison
from jensen.training.journal import read_journal

RUNS = Path("runs/gan_vae")
RUNS.mkdir(parents=True, exist_ok=True)


def show(x, name):
    """Save pictures (N, 1, 8, 8) on a sheet, and display it in a notebook."""
    image = gallery(x, columns=16)
    image.save(RUNS / f"{name}.png")
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        return
    display(image)


def train(name, recipe, **settings):
    """Train a recipe into a folder, or resume it, without previews."""
    folder = RUNS / name
    run = jensen.train(recipe, folder, settings={"training.previews": 0, **settings}, resume=folder.exists())
    seconds = read_journal(folder / "journal.jsonl")[-1]["seconds"]
    print(f"{name}: {run.recipe.training.steps:,} steps in {seconds:.0f} s")
    return run


def tabulate(table):
    """Print a table."""
    lines = [[str(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(table.head))]
    print("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines))


# %% [markdown]
# ## The data
#
# A fifth of every class is held out: no model is trained on it, and every evaluation uses it.

# %%
data = jensen.configure("digits-grey-vae").data.open(seed=0)
test = some(data.test)["x"]
print(f"{data.name}: {len(data.train):,} training pictures, {len(data.test)} held out")
show(test[:48], "data")

# %% [markdown]
# ## The variational autoencoder
#
# An encoder $q(z|x)$, a decoder $p(x|z)$, a prior $p(z)$; Jensen's inequality gives the bound that is maximised:
# $\log p(x) \ge E_q[\log p(x|z)] - KL(q(z|x) \| p(z))$. The decoder gives each pixel a logistic distribution over
# the 17 levels, so $\log p(x)$ is the log of a probability.

# %%
vae = train("vae", "digits-grey-vae", **{"training.steps": 2000, "judging.importance": 500})
found = vae.evaluate()
for key in ("log_p", "bits_per_dim", "elbo"):
    print(f"{found[key].name}: {found[key]}")

# %% [markdown]
# ## The generator and its critic
#
# $x = G(z)$ and nothing else: no density, no bound. The critic learns to tell $G(z)$ from data, the generator
# learns to fool it; with an optimal critic the generator minimises the Jensen-Shannon divergence, which is
# non-negative by Jensen's inequality again. A penalty on the critic's gradient at the data (R1) keeps the two from
# oscillating.

# %%
gan = train("gan", "digits-gan", **{"training.steps": 4000})

# %% [markdown]
# ## The diffusion model
#
# $z_t = \alpha_t x + \sigma_t \epsilon$ for $t$ from 0 to 1; a network learns to predict $x$ from $z_t$, and
# sampling starts from noise and removes it in 32 steps. The network is conditioned on the class.

# %%
judging = {"judging.steps": [32], "judging.samples": 300, "judging.bound_steps": 100, "judging.ode_rows": 100}
diffusion = train("diffusion", "digits-ddpm", **{"training.steps": 2500, **judging})
found = diffusion.evaluate()
print(f"{found['bound'].name}: {found['bound']}")

# %% [markdown]
# ## Samples from the same seed
#
# The first 48 samples of each, none of them chosen.

# %%
for run in (vae, gan, diffusion):
    show(run.space.settled(run.sample(48, seed=7).x), f"samples-{run.folder.name}")

# %% [markdown]
# ## Interpolation
#
# Between two draws of the latent variable, along a great circle: means of $p(x|z)$ for the VAE, samples for the GAN.

# %%
for run in (vae, gan):
    show(run.interpolate(4, 16, seed=7).x, f"between-{run.folder.name}")

# %% [markdown]
# ## Reconstruction, which only the VAE can do
#
# Held-out pictures, and below them the decoder's output for one draw of $q(z|x)$. The GAN has no encoder.

# %%
with torch.no_grad(), drawing(generator(7)):
    rebuilt = vae.model.decode(vae.model.infer(test[:16], samples=1)[0].z[0])
show(torch.cat([test[:16], rebuilt]), "rebuilt")

# %% [markdown]
# ## One evaluation for all
#
# 1,000 samples of each are compared with the held-out digits, by the features of a small classifier that was trained on
# the same data. The column "floor" has the same numbers for training digits in place of samples. No model can be
# expected to be better, and a number within two standard errors of it is as good as that of real data.

# %%
found = compare([run.folder for run in (vae, gan, diffusion)], seed=7)
report = {part.title: part for part in parts(found)}
print(f"by {found.features}\n")
tabulate(report["Metrics"].tables[0])

# %% [markdown]
# ## Likelihood, where there is one
#
# These are probabilities of the same discrete pictures, so they can be ranked; the true log-likelihood may be higher
# than a lower bound, and the diffusion model is conditioned on the class, which is worth up to log 10 = 2.3 nats. The
# GAN is not in this table: it has no likelihood.

# %%
tabulate(report["Likelihood, mass"].tables[0])

# %% [markdown]
# ## Discriminators
#
# For each model a discriminator with the same network, budget and real data is trained from scratch to distinguish
# samples from data, and tested on samples and data that it has not seen. An AUC of 1/2 means that it cannot. The last
# row is the critic that the GAN was trained with, which has only seen samples of its own generator.

# %%
tabulate(report["Discriminators"].tables[0])
print("\naccuracy of the fresh discriminator during its training")
print("steps".ljust(12) + "".join(f"{step:>7}" for step in found.judged_floor.steps))
for name, judged in [("floor", found.judged_floor), *((c.name, c.judgement) for c in found.contestants)]:
    print(name.ljust(12) + "".join(f"{100 * value:6.0f}%" for value in judged.curve))

# %% [markdown]
# ## Costs
#
# Seconds of training depend on the machine and its load.

# %%
tabulate(report["Costs"].tables[0])

# %% [markdown]
# ## Summary
#
# Where a model is best or worst by more than two standard errors. The diffusion model is sampled with guidance 2, which
# moves samples towards the most typical pictures of each class: precision and density increase, recall decreases, and
# the discriminator finds it easier to detect the samples.

# %%
tabulate(report["Summary"].tables[0])
write_comparison(found, RUNS / "compare.html")
