"""A fresh critic and the critic of training on new data; exact transport distances; units that are never active."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from jensen.adversarial import (
    DIVERGENCES,
    MarginGame,
    MarginLoss,
    ModeFeatures,
    WassersteinGame,
    critic_divergence,
    critic_logits,
    gradient_penalty,
    logistic,
    train_critic,
    wasserstein1,
)
from jensen.core.modes import evaluating
from jensen.core.protocols import Indexed, Sampleable
from jensen.core.seeding import begin_globally, derived, generator
from jensen.data.mixtures import Modes
from jensen.data.pool import Examples
from jensen.data.space import Space
from jensen.judging.case import Case, judge
from jensen.metrics.units import never_positive
from jensen.models.gan import GAN
from jensen.nn import PictureCritic, Standardized, mlp
from jensen.objectives.adversarial import Adversarial
from jensen.report import plots
from jensen.report.findings import Finding, Part, Table, estimated

APART = DIVERGENCES["total-variation"]
NAMES = {"jensen-shannon": "Jensen-Shannon divergence", "total-variation": "total variation"}
NAMES |= {"hellinger": "squared Hellinger distance", "le-cam": "Le Cam divergence"}
PART = 4096  # packs that are read together
ROWS, COST = 1000, 1e9  # largest numbers of examples, and of differences of numbers, in a transport problem


def played(case: Case) -> Adversarial | None:
    """The game at the end of training, if it has a generator and a critic."""
    game = None if case.game is None else case.game.objective
    return game if isinstance(game, Adversarial) else None


def fresh_critic(space: Space, modes: Modes | None = None) -> nn.Module:
    """An untrained critic of single examples; its input is on the scale of the modes or columns."""
    if space.pictures:
        return PictureCritic(space.shape)
    layers: list[nn.Module] = []
    width = space.dims
    if modes is not None:
        layers = [seen := ModeFeatures(modes.centres, modes.std)]
        width = seen.outputs
    elif space.by_column:
        layers = [Standardized(*space.moments())]
    return nn.Sequential(*layers, mlp(width, 128, 128, 1, activation=nn.ReLU))


@judge
def critics(case: Case) -> Part | None:
    """The gain over guessing of a fresh critic and of the critic of training, on new data and samples."""
    game, model, steps = played(case), case.model, case.settings.critic_steps
    if game is None or not isinstance(model, GAN):
        return None
    loss = game.loss.loss if isinstance(game.loss, MarginGame) else logistic
    with torch.random.fork_rng(devices=[case.device] if case.device.type == "cuda" else []):
        begin_globally(derived(case.seed, "fresh critic"))
        fresh = fresh_critic(case.data.space, case.data.truths.modes).to(case.device)
        x, advance = Examples(case.train, lambda x: x.to(case.device)), case.track("fresh critic", steps)
        at = train_critic(fresh, loss, x, model.sample, steps=steps, advance=advance)
    packs = f", packs of {game.packing}" if game.packing > 1 else ""
    findings, charts = [], []
    for key, name, stream, critic, seen in (
        ("fresh", "fresh critic", "evaluating a fresh critic", fresh, nn.Identity()),
        ("trained", f"training's critic{packs}", "evaluating the critic of training", game.critic, game.packs),
    ):
        made = case.draw(len(case.test["x"]), seed=derived(case.seed, stream))
        real, fake = (critic_logits(critic, seen(v.to(case.device))).cpu() for v in (case.test["x"], made))
        if len(real) < 2:
            continue
        if key == "fresh" or isinstance(game.loss, MarginGame):
            findings.append(estimate(key, name, loss, real, fake, card=key == "fresh"))
        if loss.divergence != APART.divergence:
            findings.append(estimate(f"{key}_tv", name, APART, real, fake))
        logits = {"real": real.tolist(), "generated": fake.tolist()}
        charts.append(plots.histograms(logits, title=f"logits, {name}", xlabel="logit (above 0: real)"))
    text = (
        "Both critics are evaluated on held-out data and on new samples. Their gain over guessing is, on average, "
        "a lower bound on the divergence between data and samples. The fresh critic was trained against the finished "
        f"generator ({steps} steps, best at step {at} on a tenth of the training data that was held out from its "
        f"training). The critic of training was trained together with its generator{packs and ' on' + packs[1:]}."
    )
    return Part("Fresh critic and critic of training", text, findings, plots=charts, details={"fresh_best_at": at})


def estimate(key: str, name: str, loss: MarginLoss, real: Tensor, fake: Tensor, *, card: bool = False) -> Finding:
    """The divergence of this loss from a critic's logits: a lower bound on average."""
    most = loss.scale * loss.chance
    note = "lower bound" + (f", at most {most:.3g}" if math.isfinite(most) else "")
    what = NAMES.get(loss.divergence or "", f"gain in {loss.name} loss")
    return estimated(key, f"{what}, {name}", critic_divergence(loss, real, fake), note=note, card=card)


@judge
def transport(case: Case) -> Part | None:
    """The exact Wasserstein-1 distance between samples and held-out data, and a Wasserstein critic's estimate of it."""
    if not isinstance(case.model, Sampleable) or case.data.b is not None:
        return None
    test, made, train = case.test["x"], case.samples, case.train
    n = min(len(made), len(test), len(train), ROWS, max(2, int((COST / case.data.space.dims) ** 0.5)))
    seen = train[torch.randperm(len(train), generator=generator(derived(case.seed, "floor")))[:n]]["x"]
    made, test, seen = (case.data.space.comparable(v) for v in (made[:n], test[:n], seen))
    pairs = (made, test), (made, seen), (seen, test)
    held_out, training, floor = (float(wasserstein1(*pair)) for pair in pairs)
    note = f"{n:,} rows of each{case.data.space.unit}"
    findings = [
        Finding("transport", "Wasserstein-1 distance to held-out data", held_out, floor=floor, note=note),
        Finding("transport_train", "Wasserstein-1 distance to training data", training, floor=floor),
    ]
    text = (
        f"The Wasserstein-1 distance between {n:,} samples and the same number of held-out examples, computed exactly "
        f"by optimal matching. The floor is the distance between {n:,} training examples and the held-out ones. In "
        "many dimensions it is large even for a perfect model, because two draws are rarely close to each other."
    )
    game = played(case)
    if game is not None and isinstance(game.loss, WassersteinGame):
        findings += _critic_estimates(case, game)
        text += (
            " The critic of training estimates the distance by a difference of means, which is a lower bound if the "
            "critic's slope is at most 1. Where its estimate is higher for training data than for held-out data, it "
            "has memorised the training data."
        )
    return Part("Transport", text, findings)


def _critic_estimates(case: Case, game: Adversarial) -> list[Finding]:
    """The distances that a Wasserstein critic estimates, and the deviation of its slope from 1 between data and
    samples.
    """
    found: list[Finding] = []
    sets: tuple[Indexed, ...] = (case.samples, Examples(case.train, nn.Identity()), case.test["x"])

    def values(x: Indexed) -> Tensor:
        parts = (x[k : k + PART * game.packing] for k in range(0, len(x), PART * game.packing))
        return torch.cat([critic_logits(game.critic, game.packs(part.to(case.device))) for part in parts]).double()

    fake, *data = map(values, sets)
    for key, name, real in zip(("critic_train", "critic_test"), ("training", "held-out"), data, strict=True):
        error = float((real.var() / len(real) + fake.var() / len(fake)).sqrt())
        name = f"the critic's estimate, to {name} data"
        found.append(Finding(key, name, float(real.mean() - fake.mean()), error, best=None))
    n = min(map(len, sets))
    made, train = (game.packs(x[:n].to(case.device)) for x in sets[:2])
    off = gradient_penalty(game.critic, train, made, 1.0, generator=case.rng("slope")).detach().mean().sqrt()
    return [*found, Finding("critic_slope", "root mean square deviation of the critic's slope from 1", float(off))]


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
    both = game.packs(torch.cat([x, model.decode(z)]))
    findings, rows = [], []
    for player, network, inputs in (("generator", model, z), ("critic", game.critic, both)):
        with evaluating(network):
            layers = never_positive(network, partial(network, inputs))
        rows += [(player, layer.layer, str(layer.never), str(layer.of)) for layer in layers]
        k, n = sum(layer.never for layer in layers), sum(layer.of for layer in layers)
        if n:
            name, note = f"{player}: units that are never positive", f"{k} of {n}"
            findings.append(Finding(f"units_{player}", name, k / n, form="share", note=note))
    text = "Units that are not positive for any input: dead before a ReLU, linear before a LeakyReLU."
    tables = [Table(("", "layer", "never positive", "of"), rows)] if rows else []
    return Part("Hidden units", text, findings, tables=tables)
