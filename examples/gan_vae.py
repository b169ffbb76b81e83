# %% [markdown]
# # A VAE, a GAN and a diffusion model of real handwritten digits, compared and judged
#
# Three ways to learn to draw from 1,437 pictures of digits, 8 by 8 pixels, 17 levels of grey. They share the data and
# nothing else: a variational autoencoder raises a bound of $\log p(x)$, a generator plays against a critic, a diffusion
# model removes noise. Then one evaluation for all three, with an error on every number and the number that a perfect
# model would get beside it, and a fresh judge who has met none of them.
#
# Every cell is a function of its seed. Runs are folders: a cell that is run again finds its run finished, or goes on
# with it; delete `runs/gan_vae` to train anew. Some minutes on two cores.

# %%
from pathlib import Path

import torch

import jensen
from jensen.core.seeding import drawing, generator
from jensen.data.dataset import some
from jensen.recipes.words import preset
from jensen.report.gallery import gallery
from jensen.runs.compare import compare, line, parts, write_comparison
from jensen.training.journal import read_journal

RUNS = Path("runs/gan_vae")
RUNS.mkdir(parents=True, exist_ok=True)


def show(image, name):
    """Keep a picture, and show it where there is something to show it on."""
    image.save(RUNS / f"{name}.png")
    try:
        from IPython.display import display
    except ModuleNotFoundError:
        return
    display(image)


def train(name, recipe, **settings):
    """Train into a folder, or go on with what is there; returns the run."""
    folder = RUNS / name
    settings = {"training.previews": 0} | {key.replace("__", "."): value for key, value in settings.items()}
    run = jensen.train(recipe, folder, settings=settings, resume=folder.exists())
    print(f"{name}: {run.recipe.training.length()} in {read_journal(folder / 'journal.jsonl')[-1]['seconds']:.0f} s")
    return run


def tabulate(title):
    """The table of one part of the comparison, in text."""
    (table,) = next(part.tables for part in parts(found) if part.title == title)
    lines = [[str(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(table.head))]
    print("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines))


# %% [markdown]
# ## The data
#
# A fifth of every class is kept back: no model sees it, every judgement is made with it.

# %%
data = preset("digits-grey-vae").data.open(seed=0)
test = some(data.test)["x"]
print(f"{data.name}: {len(data.train):,} to learn from, {len(data.test)} kept back")
show(gallery(test[:48], columns=16), "data")

# %% [markdown]
# ## The variational autoencoder
#
# An encoder $q(z|x)$, a decoder $p(x|z)$, a prior $p(z)$; Jensen's inequality gives the bound that is raised:
# $\log p(x) \ge E_q[\log p(x|z)] - KL(q(z|x) \| p(z))$. The decoder gives each pixel a logistic law over the 17 levels,
# so that $\log p(x)$ is the log of a probability.

# %%
vae = train("vae", "digits-grey-vae", training__steps=2000, judging__samples=500)
found = vae.evaluate()
print(f"log p(x) of pictures kept back: {found['log_p']}; the bound says {found['elbo']}")

# %% [markdown]
# ## The generator and its critic
#
# $x = G(z)$ and nothing else: no density, no bound. The critic learns to tell $G(z)$ from data, the generator to be
# mistaken for them; at the optimum of the critic the game is the Jensen-Shannon divergence, from Jensen's inequality
# again. A penalty on the critic's slope at the data (R1) keeps the two from running in circles.

# %%
gan = train("gan", "digits-gan", training__steps=4000)

# %% [markdown]
# ## The diffusion model
#
# $z_t = \alpha_t x + \sigma_t \epsilon$ for $t$ from 0 to 1; a network learns to say which $x$ is behind $z_t$, and
# drawing starts from noise and removes it in 32 steps. It is told the class.

# %%
judged = {"judging__steps": [32], "judging__samples": 300, "judging__bound_steps": 100, "judging__ode_rows": 100}
diffusion = train("diffusion", "digits-ddpm", training__steps=2500, **judged)
bounds = [f for f in diffusion.evaluate().values() if f.facts.get("kind") == "lower bound"]
print("\n".join(f"{bound.name}: {bound}" for bound in bounds))

# %% [markdown]
# ## Samples from the same seed
#
# The first 48 of each, none of them chosen.

# %%
for name, run in (("vae", vae), ("gan", gan), ("diffusion", diffusion)):
    show(gallery(data.space.settled(run.sample(48, seed=7).x), columns=16), f"samples-{name}")

# %% [markdown]
# ## From one digit to another
#
# Between two draws of the latent variable, along the great circle: in the VAE a mean picture, in the GAN a sample.

# %%
for name, run in (("vae", vae), ("gan", gan)):
    show(run.sample(4, seed=7, interpolate=16).sheet(), f"between-{name}")

# %% [markdown]
# ## What only the VAE can do: encode
#
# Pictures kept back, and below them what the decoder makes of one draw of $q(z|x)$. The GAN has no encoder.

# %%
with torch.no_grad(), drawing(generator(7)):
    rebuilt = vae.model.decode(vae.model.infer(test[:16], samples=1)[0].z[0])
show(gallery(torch.cat([test[:16], rebuilt]), columns=16), "rebuilt")

# %% [markdown]
# ## One evaluation for all
#
# 1,000 samples of each beside the digits kept back, by the features of a small classifier that learned the same data.
# The column "floor" has the same numbers for training digits in the samples' place. No model can be
# expected to beat it, and what lies within two errors of it is as good as data by that measure.

# %%
found = compare([run.folder for run in (vae, gan, diffusion)], seed=7)
print(f"by {found.features}\n")
tabulate("Metrics")

# %% [markdown]
# ## Likelihood, where there is one
#
# Probabilities of the same discrete pictures, so that they can be ranked; a bound may be below what its model could
# claim, and the diffusion model was told the class, which is worth up to log 10 = 2.3 nats. The GAN is not in this
# table: it has nothing to say of how likely a picture is.

# %%
tabulate("Likelihood, mass")

# %% [markdown]
# ## The discriminators
#
# For each contestant a fresh discriminator, all with the same network, budget and real data: how well does it tell
# samples that it has not seen from data? With an AUC of 1/2 not at all. Below it the critic that the GAN trained
# against. It knows its own generator, and was trained for that alone: what the others do, it may never have seen.

# %%
tabulate("Discriminators")
print("\naccuracy of the fresh discriminator while it learns")
print("steps".ljust(12) + "".join(f"{step:>7}" for step in found.judged_floor.steps))
for name, judged in [("floor", found.judged_floor), *((c.name, c.judgement) for c in found.contestants)]:
    print(name.ljust(12) + "".join(f"{100 * value:6.0f}%" for value in judged.curve))

# %% [markdown]
# ## What it costs
#
# Seconds of training are those of the machine that trained, whatever else it did.

# %%
tabulate("Costs")

# %% [markdown]
# ## In one line each
#
# Drawn from the numbers: what is best or worst beyond two errors. The diffusion model is drawn from with guidance 2,
# which moves samples to where each class is clearest: precision and density gain by it, recall loses, and the judge
# can tell.

# %%
for contestant in found.contestants:
    print(f"{contestant.name}: {line(found, contestant)}")
write_comparison(found, RUNS / "compare.html")
