"""Critics: a fresh one and that of training on new data, exact transport, and hidden units that are never active."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from jensen.adversarial import (
    DIVERGENCES,
    MarginGame,
    MarginLoss,
    WassersteinGame,
    critic_divergence,
    gradient_penalty,
    logistic,
    pack,
    wasserstein1,
)
from jensen.core.modes import evaluating
from jensen.core.progress import Advance
from jensen.core.protocols import Sampleable
from jensen.core.seeding import begin_globally, derived, generator
from jensen.data.mixtures import Modes
from jensen.data.space import Space
from jensen.judging.case import Case, judge
from jensen.metrics.units import Units, never_positive
from jensen.models.gan import GAN
from jensen.nn import PictureCritic, mlp
from jensen.objectives.adversarial import Adversarial
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table, estimated

APART = DIVERGENCES["total-variation"]
BATCH, RATE = 256, 1e-3  # of a fresh critic's training
LOOKS = 30  # at a fresh critic while it learns
BINS = 40  # of a histogram of logits
NAMES = {"jensen-shannon": "Jensen-Shannon", "total-variation": "total variation", "hellinger": "Hellinger"}
NAMES |= {"le-cam": "Le Cam"}  # divergences as people write them
ROWS, COST = 1000, 1e9  # between which mass is moved, at most; differences of numbers for that, at most


def played(case: Case) -> Adversarial | None:
    """The game at the end of training, if it has a generator and a critic."""
    game = None if case.game is None else case.game.objective
    return game if isinstance(game, Adversarial) else None


# a fresh critic ------------------------------------------------------------------------------


class Nearest(nn.Module):
    r"""A point x, the index of the nearest of K modes, and the offset from that mode, (N, D) -> (N, K + 2 D + 1).

    With $u$ the offset in standard deviations: $u\,\mathrm{asinh}|u| / |u|$ and $\mathrm{asinh}|u|$, which resolve a
    mode and stay small between modes.

    >>> from jensen.data.mixtures import ring
    >>> Nearest(ring(8))(torch.zeros(4, 2)).shape
    torch.Size([4, 13])
    """

    centres: Tensor

    def __init__(self, law: Modes):
        super().__init__()
        self.std = law.std
        self.register_buffer("centres", law.centres)

    def forward(self, x: Tensor) -> Tensor:
        mode = (x[:, None] - self.centres).square().sum(2).argmin(1)
        u = (x - self.centres[mode]) / self.std
        far = u.norm(dim=1, keepdim=True)
        size = far.asinh()
        which = nn.functional.one_hot(mode, len(self.centres)).to(x)
        return torch.cat([x, which, u * size / far.clamp(min=1e-6), size], 1)


def fresh_critic(space: Space, law: Modes | None = None) -> nn.Module:
    """An untrained critic of single examples; if modes are known, its input is on their scale."""
    if space.pictures:
        return PictureCritic(space.shape)
    seen = nn.Identity() if law is None else Nearest(law)
    inputs = space.dims if law is None else len(law.centres) + 2 * space.dims + 1
    return nn.Sequential(seen, mlp(inputs, 128, 128, 1, activation=nn.ReLU))


def learn_critic(
    critic: nn.Module,
    loss: MarginLoss,
    data: Tensor,
    sample: Callable[[int], Tensor],
    *,
    steps: int,
    batch: int = BATCH,
    rate: float = RATE,
    advance: Advance = lambda _: None,
) -> int:
    """Train `critic` to tell data from samples; keep the weights that were best on a tenth held out from its training.

    It draws from torch's global generator. Returns the step at which it was best.
    """
    data = data[torch.randperm(len(data))]
    kept = max(len(data) // 10, 2)
    kept_samples = sample(kept)
    adam = torch.optim.Adam(critic.parameters(), lr=rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, state, at = -math.inf, copy.deepcopy(critic.state_dict()), 0
    for step in range(1, steps + 1):
        real = data[kept:][torch.randint(len(data) - kept, (batch,))]
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


def flat(values: Tensor) -> Tensor:
    """Logits (B,), one per pack; for a patch critic, the mean over its patches."""
    return values.reshape(len(values), -1).mean(1)


@torch.no_grad()
def logits(critic: nn.Module, x: Tensor, packing: int = 1) -> Tensor:
    """Logits of whole packs of x in evaluation mode, (B // packing,)."""
    packs = pack(x[: len(x) // packing * packing], packing)
    with evaluating(critic):
        return torch.cat([flat(critic(part)) for part in packs.split(512)])


@judge
def critics(case: Case) -> Part | None:
    """What a fresh critic and the critic of training gain over guessing, on new data and samples."""
    game, model = played(case), case.model
    if game is None or not isinstance(model, GAN):
        return None
    loss = game.loss.loss if isinstance(game.loss, MarginGame) else logistic
    steps = case.settings.critic_steps
    with torch.random.fork_rng(devices=[case.device] if case.device.type == "cuda" else []):
        begin_globally(derived(case.seed, "fresh critic"))
        fresh = fresh_critic(case.data.space, case.data.truths.modes).to(case.device)
        track = case.track("fresh critic", steps)
        at = learn_critic(fresh, loss, case.train["x"].to(case.device), model.sample, steps=steps, advance=track)
    told = {
        "fresh": logits_of(case, fresh, 1, "evaluating a fresh critic"),
        "trained": logits_of(case, game.critic, game.packing, "evaluating the critic of training"),
    }
    packs = f", packs of {game.packing}" if game.packing > 1 else ""
    names = {"fresh": "fresh critic", "trained": f"training's critic{packs}"}
    findings, charts = [], []
    for key, (real, fake) in told.items():
        if min(len(real), len(fake)) < 2:
            continue
        if key == "fresh" or isinstance(game.loss, MarginGame):
            findings.append(estimate(key, names[key], loss, real, fake, card=key == "fresh"))
        if loss.divergence != APART.divergence:
            findings.append(estimate(f"{key}_tv", names[key], APART, real, fake))
        edges, counted = histogram(real, fake)
        title = f"logits, {names[key]}"
        charts.append(plots.histograms(counted, edges=edges, title=title, xlabel="logit (above 0: real)"))
    text = (
        "Both critics are evaluated on held-out data and on samples that they never saw. What they gain over "
        "guessing is, on average, a lower bound of the divergence between data and samples. The fresh critic was "
        f"trained against the finished generator ({steps} steps, best at step {at} on a tenth of the training data "
        "that was held out from it). The critic of training was trained together with its "
        f"generator{packs and ', and sees' + packs[1:]}."
    )
    return Part("Fresh critic and critic of training", text, findings, plots=charts, details={"fresh_best_at": at})


def logits_of(case: Case, critic: nn.Module, packing: int, stream: str) -> tuple[Tensor, Tensor]:
    """A critic's logits on held-out data and on as many new samples."""
    x = case.test["x"]
    made = case.draw(len(x), seed=derived(case.seed, stream))
    real, fake = (logits(critic, v.to(case.device), packing).cpu() for v in (x, made))
    return real, fake


def estimate(key: str, name: str, loss: MarginLoss, real: Tensor, fake: Tensor, *, card: bool = False) -> Finding:
    """The divergence of this loss from a critic's logits: a lower bound on average."""
    found = critic_divergence(loss, real, fake)
    what = NAMES.get(loss.divergence or "", f"gain in {loss.name} loss")
    most = loss.scale * loss.chance
    note = "lower bound" + (f", at most {most:.3g}" if math.isfinite(most) else "")
    return estimated(key, f"{what}, {name}", found, note=note, card=card)


def histogram(real: Tensor, fake: Tensor) -> tuple[list[float], dict[str, list[float]]]:
    """Edges and counts of logits on shared bins, without the lowest and highest hundredth."""
    both = torch.cat([real, fake]).double()
    low, high = (float(both.quantile(q)) for q in (0.005, 0.995))
    edges = torch.linspace(low, max(high, low + 1e-6), BINS + 1, dtype=torch.float64)
    counted = {
        name: torch.histogram(v.double().clamp(edges[0], edges[-1]), edges).hist.int().tolist()
        for name, v in (("real", real), ("generated", fake))
    }
    return edges.tolist(), counted


# distances -----------------------------------------------------------------------------------


@judge
def transport(case: Case) -> Part | None:
    """The exact Wasserstein-1 distance between samples and held-out data, and a Wasserstein critic's estimate of it."""
    if not isinstance(case.model, Sampleable) or case.data.b is not None:
        return None
    test, made, train = case.test["x"], case.samples, case.train["x"]
    n = min(len(made), len(test), len(train), ROWS, max(2, int((COST / case.data.space.dims) ** 0.5)))
    order = torch.randperm(len(train), generator=generator(derived(case.seed, "floor")))[:n]
    apart, floor, seen = (
        float(wasserstein1(a, b)) for a, b in ((made[:n], test[:n]), (train[order], test[:n]), (made[:n], train[order]))
    )
    findings = [
        Finding("transport", "Wasserstein-1 distance to held-out data", apart, floor=floor, note=f"{n:,} rows of each"),
        Finding("transport_train", "Wasserstein-1 distance to training data", seen, floor=floor),
    ]
    text = (
        f"The Wasserstein-1 distance between {n:,} samples and as many held-out examples, computed exactly by optimal "
        f"matching. The floor is the distance between {n:,} training examples and the held-out ones. In many "
        "dimensions it is large even for a perfect model, because two draws are rarely close to each other."
    )
    game = played(case)
    if game is not None and isinstance(game.loss, WassersteinGame):
        findings += claims(game.critic, game.packing, made, train, test, case)
        text += (
            " The critic of training estimates the distance by a difference of means, which is a lower bound if the "
            "critic's slope is at most 1. Where its estimate is higher for training data than for held-out data, it "
            "has memorised the training data."
        )
    return Part("Transport", text, findings)


def claims(critic: nn.Module, packing: int, made: Tensor, train: Tensor, test: Tensor, case: Case) -> list[Finding]:
    """The distances that a Wasserstein critic estimates, and how far its slope between data and samples is from 1."""
    found = []
    fake = logits(critic, made.to(case.device), packing).double()
    for key, name, x in (("critic_train", "training", train), ("critic_test", "held-out", test)):
        real = logits(critic, x.to(case.device), packing).double()
        error = float((real.var() / len(real) + fake.var() / len(fake)).sqrt())
        value = float(real.mean() - fake.mean())
        found.append(Finding(key, f"the critic's estimate, to {name} data", value, error, best=None))
    n = min(len(made), len(test), len(train)) // packing * packing
    data, drawn = (pack(v[:n].to(case.device), packing) for v in (train, made))
    off = gradient_penalty(critic, data, drawn, 1.0, generator=case.rng("slope"))
    slope = float(off.detach().mean().sqrt())
    return [*found, Finding("critic_slope", "root mean square deviation of the critic's slope from 1", slope)]


# hidden units --------------------------------------------------------------------------------


@judge
def units(case: Case) -> Part | None:
    """Hidden units of both players that are not positive for any input."""
    game, model = played(case), case.model
    if game is None or not isinstance(model, GAN):
        return None
    x = case.test["x"].to(case.device)
    x = x[: len(x) // game.packing * game.packing]
    if not len(x):
        return None
    z = model.latent(len(x), case.rng("hidden units"))
    both = pack(torch.cat([x, model.decode(z)]), game.packing)
    with evaluating(model), evaluating(game.critic):
        found = {
            "generator": never_positive(model, lambda: model(z)),
            "critic": never_positive(game.critic, lambda: game.critic(both)),
        }
    text = "Units that are not positive for any input: dead before a ReLU, linear before a LeakyReLU."
    rows = [(player, layer.layer, str(layer.never), str(layer.of)) for player, v in found.items() for layer in v]
    table = Table(("", "layer", "never positive", "of"), rows)
    return Part("Hidden units", text, never(found), tables=[table] if rows else [])


def never(found: Mapping[str, list[Units]]) -> list[Finding]:
    """The share of each player's units that are never positive."""
    counted = {player: (sum(v.never for v in layers), sum(v.of for v in layers)) for player, layers in found.items()}
    return [
        Finding(f"units_{player}", f"the {player}'s units never positive", k / n, form="share", note=f"{k} of {n}")
        for player, (k, n) in counted.items()
        if n
    ]
