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

from jensen.core.seeding import drawing, generator
from jensen.recipes import configure, open_run, running
from jensen.recipes.base import Request
from jensen.recipes.comparing import compare, line
from jensen.recipes.comparing_page import cost_table, judge_table, likelihood_table, table_of, write_comparison
from jensen.recipes.data import DigitsData
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


def train(name, recipe):
    """Train into a folder, or go on with what is there; returns the folder."""
    folder = RUNS / name
    running.train(recipe, folder, resume=folder.exists())
    seconds = read_journal(folder / "journal.jsonl")[-1]["seconds"]
    print(f"{name}: {recipe.training.steps:,} steps in {seconds:.0f} s")
    return folder


def tabulate(table):
    """A table in text."""
    lines = [[str(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(table.head))]
    print("\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines))


# %% [markdown]
# ## The data
#
# A fifth of every class is kept back: no model sees it, every judgement is made with it.

# %%
real = DigitsData(scale="grey").real()
print(f"{real.name}: {len(real.train):,} to learn from, {len(real.test)} kept back")
vae_recipe = configure("digits-grey-vae", ["training.steps=2000", "training.previews=0", "judging.samples=500"])
show(vae_recipe.image(real.test[:48], columns=16), "data")

# %% [markdown]
# ## The variational autoencoder
#
# An encoder $q(z|x)$, a decoder $p(x|z)$, a prior $p(z)$; Jensen's inequality gives the bound that is raised:
# $\log p(x) \ge E_q[\log p(x|z)] - KL(q(z|x) \| p(z))$. The decoder gives each pixel a logistic law over the 17 levels,
# so that $\log p(x)$ is the log of a probability.

# %%
vae = train("vae", vae_recipe)
evaluation = running.evaluate(vae)[1]
print(
    f"log p(x) of pictures kept back: {evaluation['log_p']['mean']:.2f} ± {evaluation['log_p']['stderr']:.2f} nats, "
    f"{evaluation['bits_per_dim']:.3f} bits a pixel; the bound says {evaluation['elbo']['mean']:.2f}"
)

# %% [markdown]
# ## The generator and its critic
#
# $x = G(z)$ and nothing else: no density, no bound. The critic learns to tell $G(z)$ from data, the generator to be
# mistaken for them; at the optimum of the critic the game is the Jensen-Shannon divergence, from Jensen's inequality
# again. A penalty on the critic's slope at the data (R1) keeps the two from running in circles.

# %%
gan_recipe = configure("digits-gan", ["training.steps=4000", "training.previews=0"])
gan = train("gan", gan_recipe)

# %% [markdown]
# ## The diffusion model
#
# $z_t = \alpha_t x + \sigma_t \epsilon$ for $t$ from 0 to 1; a network learns to say which $x$ is behind $z_t$, and
# drawing starts from noise and removes it in 32 steps. It is told the class.

# %%
words = ["training.steps=2500", "training.previews=0", "judging.steps=[32]", "judging.samples=300"]
diffusion_recipe = configure("digits-ddpm", [*words, "judging.bound_steps=100", "judging.ode_rows=100"])
diffusion = train("diffusion", diffusion_recipe)
evaluation = running.evaluate(diffusion)[1]
print(f"a bound of log p(x): {evaluation['likelihood']['continuous']['mean']:.2f} nats")

# %% [markdown]
# ## Samples from the same seed
#
# The first 48 of each, none of them chosen.

# %%
for name, folder in (("vae", vae), ("gan", gan), ("diffusion", diffusion)):
    recipe, model = open_run(folder)
    made = recipe.drawing(model, Request(n=48, seed=7)).draw(lambda _: None)
    show(recipe.image(real.settled(made), columns=16), f"samples-{name}")

# %% [markdown]
# ## From one digit to another
#
# Between two draws of the latent variable, along the great circle: in the VAE a mean picture, in the GAN a sample.

# %%
for name, folder in (("vae", vae), ("gan", gan)):
    recipe, model = open_run(folder)
    ways = recipe.drawing(model, Request(n=4, seed=7, between=16)).draw(lambda _: None)
    show(recipe.image(ways, columns=16), f"between-{name}")

# %% [markdown]
# ## What only the VAE can do: encode
#
# Pictures kept back, and below them what the decoder makes of one draw of $q(z|x)$. The GAN has no encoder.

# %%
recipe, model = open_run(vae)
with torch.no_grad(), drawing(generator(7)):
    rebuilt = model.decode(model.infer(real.test[:16], samples=1)[0].z[0])
show(recipe.image(torch.cat([real.test[:16], rebuilt]), columns=16), "rebuilt")

# %% [markdown]
# ## One evaluation for all
#
# 1,000 samples of each beside the digits kept back, by the features of a small classifier that learned the same data.
# The column "real data" is the floor: the same numbers for training digits in the samples' place. No model can be
# expected to beat it, and what lies within two errors of it is as good as data by that measure.

# %%
found = compare([vae, gan, diffusion], seed=7)
print(f"by {found.features}\n")
tabulate(table_of(found))

# %% [markdown]
# ## Likelihood, where there is one
#
# Probabilities of the same discrete pictures, so that they can be ranked; a bound may be below what its model could
# claim, and the diffusion model was told the class, which is worth up to log 10 = 2.3 nats. The GAN is not in this
# table: it has nothing to say of how likely a picture is.

# %%
tabulate(likelihood_table(found.contestants, "mass"))

# %% [markdown]
# ## The judge
#
# For each contestant a fresh discriminator, all with the same network, budget and real data: how well does it tell
# samples that it has not seen from data? With an AUC of 1/2 not at all. Below it the critic that the GAN trained
# against. It knows its own generator, and was trained for that alone: what the others do, it may never have seen.

# %%
tabulate(judge_table(found))
print("\naccuracy of the fresh judge while it learns")
print("steps".ljust(12) + "".join(f"{step:>7}" for step in found.judged_floor.steps))
for name, judged in [("real data", found.judged_floor), *((c.name, c.judgement) for c in found.contestants)]:
    print(name.ljust(12) + "".join(f"{100 * value:6.0f}%" for value in judged.curve))

# %% [markdown]
# ## What it costs
#
# Seconds of training are those of the machine that trained, whatever else it did.

# %%
tabulate(cost_table(found.contestants))

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
