"""How a generator is judged: its samples, what critics tell apart, and which units have died.

Every GAN recipe gets this from `GANRecipe`, whose subclasses add what only their data can tell:

- `look(samples, columns=, scale=)`: samples as a PNG shows them;
- `judged(made, model, samples, track)`: a dict of JSON values measured on `judging.samples` draws (kept under "own");
  it may write pictures below `samples` and open a progress bar with `track(name, total)`;
- `fresh_critic()`: an untrained critic of single examples, to judge with;
- `own_rows(own)`, `own_cards(own)`, `own_sections(own, samples)`: what is said of that dict, in `jensen evaluate`'s
  rows, and first on the page.

Two critics are asked. The one of training sees packs, and was trained against the generator as it moved. The fresh one
has the same shape without packing, unless the recipe has a sharper one. It starts from nothing, learns from nine tenths
of the training data against new samples, rests at the moment that was best on the last tenth, and is judged on the test
data and other samples: whatever it learnt, the number is on average a lower bound of the divergence between the data
and the samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jensen.adversarial import (
    DIVERGENCES,
    MarginGame,
    MarginLoss,
    WassersteinGame,
    critic_divergence,
    pack,
    wasserstein1,
)
from jensen.core.seeding import begin_globally, generator, generators
from jensen.metrics import energy_distance
from jensen.metrics.units import never_positive
from jensen.models.gan import GAN
from jensen.objectives.adversarial import Adversarial
from jensen.recipes import stability
from jensen.recipes.base import Advance, Request, Track
from jensen.recipes.folder import command, save_image
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, previews, write_page
from jensen.training.journal import read_journal

if TYPE_CHECKING:
    from jensen.recipes.adversarial import GANRecipe

BINS = 40  # of a histogram of logits
LOOKS = 30  # at a fresh critic while it learns
SHOWN = 1000  # points on a picture
STRIP = 10  # pictures from one noise to another
TRAINED, FRESH, SEEN = 21, 22, 23  # streams of random numbers


@dataclass(frozen=True)
class Judge:
    """A trained generator under judgement."""

    recipe: GANRecipe
    model: GAN
    folder: Path
    track: Track

    def everything(self) -> dict[str, Any]:
        """The evaluation: JSON values; pictures beside it."""
        recipe, samples = self.recipe, self.folder / "samples"
        game = recipe.trained(self.folder).to(self.device)
        x = recipe.test_data()
        n = recipe.judging.samples
        made = recipe.draw(self.model, n, recipe.seed, self.track("drawing", n)).cpu()
        save_image(recipe.look(made[: SHOWN if recipe.what == "points" else 64]), samples / "samples.png")
        if recipe.what == "pictures":
            between = recipe.drawing(self.model, Request(n=6, seed=recipe.seed, between=STRIP))
            save_image(recipe.look(between.draw(lambda _: None), columns=STRIP), samples / "between.png")
        return {
            "rows": len(x),
            "dims": x[0].numel(),
            "own": recipe.judged(made, self.model, samples, self.track),
            "samples": self._distances(made, x),
            "critic": self._critic(game, x),
            "fresh": self._fresh(x),
            "units": self._units(game, x),
        }

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _distances(self, made: Tensor, x: Tensor) -> dict[str, Any]:
        """Energy distance and transport to test data, beside as many training data instead of samples."""
        real = self.recipe.training_data()
        real = real[torch.randperm(len(real), generator=generator(self.recipe.seed))[: len(made)]]
        rows = min(len(made), len(x), len(real), self.recipe.judging.transport)
        found: dict[str, Any] = {"n": len(made), "transport_rows": rows}
        for name, sample in (("drawn", made), ("training", real)):
            distance = energy_distance(sample, x)
            moved = float(wasserstein1(sample[:rows], x[:rows]))
            found[name] = {"n": len(sample), "energy": distance.value, "stderr": distance.stderr, "transport": moved}
        return found

    def _critic(self, game: Adversarial, x: Tensor) -> dict[str, Any]:
        """What the critic of training says of test data and of samples."""
        made = self._sampled(len(x), TRAINED)
        real, fake = (logits(game.critic, v.to(self.device), game.packing).cpu() for v in (x, made))
        found: dict[str, Any] = {"packing": game.packing, "packs": len(real), "logits": histogram(real, fake)}
        if isinstance(game.loss, MarginGame):
            found["estimate"] = estimate(game.loss.loss, real, fake)
        elif isinstance(game.loss, WassersteinGame):
            error = (real.var() / len(real) + fake.var() / len(fake)).sqrt()
            value = float(real.mean() - fake.mean())
            found["estimate"] = {"name": "difference of means", "value": value, "stderr": float(error)}
        found["apart"] = estimate(DIVERGENCES["total-variation"], real, fake)
        return found

    def _fresh(self, x: Tensor) -> dict[str, Any]:
        """What a critic finds that is trained against the finished generator."""
        recipe, judging = self.recipe, self.recipe.judging
        loss = recipe.game.margin()
        single = recipe.model_copy(update={"game": recipe.game.model_copy(update={"packing": 1})})
        with torch.random.fork_rng():
            begin_globally(recipe.seed + FRESH)
            critic = single.fresh_critic().to(self.device)
            best = learn_critic(
                critic,
                loss,
                recipe.training_data().to(self.device),
                self.model.sample,
                steps=judging.critic_steps,
                batch=judging.critic_batch,
                rate=judging.critic_rate,
                advance=self.track("a fresh critic", judging.critic_steps),
            )
        made = self._sampled(len(x), FRESH)
        real, fake = (logits(critic, v.to(self.device)).cpu() for v in (x, made))
        return {
            "loss": loss.name,
            "steps": judging.critic_steps,
            "best": best,
            "logits": histogram(real, fake),
            "estimate": estimate(loss, real, fake),
            "apart": estimate(DIVERGENCES["total-variation"], real, fake),
        }

    def _units(self, game: Adversarial, x: Tensor) -> dict[str, list[dict[str, Any]]]:
        """Hidden units of both players that are positive for no input."""
        whole = len(x) // game.packing * game.packing
        z = self.model.latent(whole, generator(self.recipe.seed + SEEN, self.device))
        both = pack(torch.cat([x[:whole].to(self.device), self.model.decode(z)]), game.packing)
        self.model.eval()
        game.critic.eval()
        found = {
            "generator": never_positive(self.model, lambda: self.model(z)),
            "critic": never_positive(game.critic, lambda: game.critic(both)),
        }
        return {player: [asdict(layer) for layer in layers] for player, layers in found.items()}

    def _sampled(self, n: int, stream: int) -> Tensor:
        """N other samples than those that are shown."""
        return self.model.sample(n, generator=generators(self.recipe.seed, [(stream, k) for k in range(n)]))

    @staticmethod
    def headline(recipe: GANRecipe, found: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows to print."""
        drawn, floor = found["samples"]["drawn"], found["samples"]["training"]
        rows = recipe.own_rows(found["own"])
        rows.append(("energy distance to test data", f"{drawn['energy']:.5f} ± {drawn['stderr']:.5f}"))
        rows.append((f"{floor['n']} training data instead", f"{floor['energy']:.5f}"))
        rows.append((f"transport, {found['samples']['transport_rows']} rows", moved(found)))
        fresh = found["fresh"]["estimate"]
        rows.append((f"{fresh['name']}, a fresh critic", f"at least {said(fresh)}"))
        if "estimate" in found["critic"]:
            ours = found["critic"]["estimate"]
            rows.append((f"{ours['name']}, training's critic", said(ours) + in_packs(found)))
        rows.append(("total variation, a fresh critic", f"at least {said(found['fresh']['apart'])}"))
        rows += [(f"{player}'s units never positive", share_of(found, player)) for player in ("generator", "critic")]
        return rows


# what is measured --------------------------------------------------------------------------


def flat(values: Tensor) -> Tensor:
    """Logits one a pack, (B,); of a patch critic their means."""
    return values.reshape(len(values), -1).mean(1)


def learn_critic(
    critic: nn.Module,
    loss: MarginLoss,
    data: Tensor,
    sample: Callable[[int], Tensor],
    *,
    steps: int,
    batch: int,
    rate: float,
    advance: Advance = lambda _: None,
) -> int:
    """Train `critic` to tell data from samples, and leave it as it was when best on a tenth that it did not learn from.

    Draws come from torch's global generator. Returns the step at which it was best.
    """
    data = data[torch.randperm(len(data))]
    kept = max(len(data) // 10, 2)
    kept_samples = sample(kept)
    adam = torch.optim.Adam(critic.parameters(), lr=rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, state, at = -math.inf, copy.deepcopy(critic.state_dict()), 0
    for step in range(1, steps + 1):
        real = data[kept:][torch.randint(len(data) - kept, (batch,))]
        critic.train()
        total = loss(flat(critic(real))).mean() + loss(-flat(critic(sample(batch)))).mean()
        adam.zero_grad()
        total.backward()
        adam.step()
        slower.step()
        advance(1)
        if step % max(steps // LOOKS, 1) == 0 or step == steps:
            gain = critic_divergence(loss, logits(critic, data[:kept]), logits(critic, kept_samples)).value
            if gain > best:
                best, state, at = gain, copy.deepcopy(critic.state_dict()), step
    critic.load_state_dict(state)
    return at


@torch.no_grad()
def logits(critic: nn.Module, x: Tensor, packing: int = 1) -> Tensor:
    """Of whole packs of x, in evaluation mode, (B // packing,)."""
    critic.eval()
    packs = pack(x[: len(x) // packing * packing], packing)
    return torch.cat([flat(critic(part)) for part in packs.split(512)])


def estimate(loss: MarginLoss, real: Tensor, fake: Tensor) -> dict[str, Any]:
    """The divergence of this loss, from a critic's logits, and the most that it can be."""
    found = critic_divergence(loss, real, fake)
    name = loss.divergence or f"gain in {loss.name} loss"
    return {"name": name, "value": found.value, "stderr": found.stderr, "most": loss.scale * loss.chance}


def histogram(real: Tensor, fake: Tensor) -> dict[str, list[float]]:
    """Of logits on shared bins, but for the outermost hundredths."""
    both = torch.cat([real, fake]).double()
    low, high = (float(both.quantile(q)) for q in (0.005, 0.995))
    edges = torch.linspace(low, max(high, low + 1e-6), BINS + 1, dtype=torch.float64)
    counted = {
        name: torch.histogram(v.double().clamp(edges[0], edges[-1]), edges).hist.int().tolist()
        for name, v in (("real", real), ("generated", fake))
    }
    return {"edges": [round(e, 6) for e in edges.tolist()], **counted}


# what is said of it ------------------------------------------------------------------------


def said(found: dict[str, Any]) -> str:
    """An estimate in words."""
    most = f" of {found['most']:.3g}" if "most" in found else ""
    return f"{found['value']:.4f} ± {found['stderr']:.4f}{most}"


def moved(found: dict[str, Any]) -> str:
    drawn, floor = found["samples"]["drawn"], found["samples"]["training"]
    return f"{drawn['transport']:.4f} (training data {floor['transport']:.4f})"


def in_packs(found: dict[str, Any]) -> str:
    return f", of packs of {found['critic']['packing']}" if found["critic"]["packing"] > 1 else ""


def share_of(found: dict[str, Any], player: str) -> str:
    """Units of a player that are never positive, in words."""
    layers = found["units"][player]
    never, units = sum(v["never"] for v in layers), sum(v["of"] for v in layers)
    return f"{never} of {units} ({never / units:.1%})" if units else "it has no ReLU or LeakyReLU"


def write_report(recipe: GANRecipe, folder: Path, found: dict[str, Any]) -> None:
    """Write report.html below a run's folder."""
    samples, own = folder / "samples", found["own"]
    drawn, floor, fresh = found["samples"]["drawn"], found["samples"]["training"], found["fresh"]
    sections = [
        Section("Drawn", "", [Picture(samples / "samples.png", "samples")]),
        *recipe.own_sections(own, samples),
        Section(
            "Between two samples",
            "Each row goes from one noise to another along a great circle.",
            [Picture(samples / "between.png", "rows from one sample to another")],
        )
        if recipe.what == "pictures"
        else None,
        Section(
            "What critics tell apart",
            "A critic judges test data and samples it never saw; what it gains over guessing is on average a lower "
            "bound of the divergence. The fresh critic learnt against the finished generator "
            f"({fresh['steps']} steps, best at {fresh['best']}); that of training moved with it{in_packs(found)}. "
            "Above 0 it says real.",
            plots=[
                logit_plot(found["fresh"]["logits"], "logits of a fresh critic"),
                logit_plot(found["critic"]["logits"], f"logits of training's critic{in_packs(found)}"),
            ],
            table=_estimates(found),
        ),
        Section(
            "Distances",
            f"To {found['rows']} test data, from samples and from as many training data instead. Transport is the "
            f"least mean distance over which {found['samples']['transport_rows']} become as many others.",
            table=Table(
                ("", "energy distance", "standard error", "transport"),
                [
                    [name, f"{row['energy']:.5f}", f"{row['stderr']:.5f}", f"{row['transport']:.4f}"]
                    for name, row in ((f"{drawn['n']} samples", drawn), (f"{floor['n']} training data", floor))
                ],
            ),
        ),
        stability.section(found.get("stability")),
        Section(
            "Hidden units",
            "Those that are positive for no input: dead behind a ReLU, no more than linear behind a LeakyReLU.",
            table=Table(("", "never positive"), [[p, share_of(found, p)] for p in ("generator", "critic")]),
        ),
        Section("Training", plots=game_curves(folder)),
        Section("Samples over training", "The same noise, by the averaged weights.", previews(folder)),
        Section("Next", code=f"{recipe.example(folder)}\n{command('evaluate', folder, '--stability')}"),
    ]
    cards = [
        *recipe.own_cards(own),
        Card("energy distance", f"{drawn['energy']:.5f}", f"training data {floor['energy']:.5f}"),
        _card(fresh["estimate"]),
    ]
    if fresh["estimate"]["name"] != fresh["apart"]["name"]:
        cards.append(_card(fresh["apart"]))
    lead = f"A {recipe.summary}: the {recipe.game.loss} game, judged on {found['rows']} test data."
    write_page(folder, lead, cards, [s for s in sections if s is not None], recipe.model_dump(mode="json"))


def _card(found: dict[str, Any]) -> Card:
    """Of a fresh critic's estimate."""
    note = f"± {found['stderr']:.4f}, a lower bound by a fresh critic; at most {found['most']:.3g}"
    return Card(found["name"].replace("-", " "), f"{found['value']:.4f}", note)


def _estimates(found: dict[str, Any]) -> Table:
    rows = []
    for name, critic in (("fresh critic", found["fresh"]), ("training's critic" + in_packs(found), found["critic"])):
        for key in ("estimate", "apart"):
            if key in critic:
                row = critic[key]
                most = f"{row['most']:.4g}" if "most" in row else ""
                rows.append([name, row["name"], f"{row['value']:.4f}", f"{row['stderr']:.4f}", most])
    return Table(("", "divergence", "at least", "standard error", "at most"), rows)


def logit_plot(found: dict[str, list[float]], title: str) -> str:
    rows: dict[str, Sequence[float]] = {"real": found["real"], "generated": found["generated"]}
    return plots.counts(found["edges"], rows, title=title, xlabel="logit")


def game_curves(folder: Path) -> list[str]:
    """The journal as plots: both losses, both logits, the critic's penalty."""
    journal = [line for line in read_journal(folder / "journal.jsonl") if "critic/loss" in line]
    steps, drawn = [line["step"] for line in journal], []
    groups = {
        "losses": {"critic": "critic/loss", "generator": "generator/loss"},
        "mean logits of training's critic": {"real": "critic/real", "generated": "critic/fake"},
        "penalty": {"critic": "critic/penalty"},
    }
    for title, keys in groups.items():
        known = {name: key for name, key in keys.items() if journal and key in journal[0]}
        rows: dict[str, Sequence[float]] = {name: [line[key] for line in journal] for name, key in known.items()}
        if rows:
            drawn.append(plots.curves(steps, rows, title=title, xlabel="step", markers=len(steps) <= 12))
    return drawn
