"""Small games of three families, all trained by the same trainer."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from jensen.core.objective import Objective
from jensen.core.types import Loss, Phase
from jensen.data.pool import pool_stream
from jensen.diffusion import CosineSchedule, NetworkDenoiser
from jensen.models import Diffusion
from jensen.objectives import Denoising


def mlp(*sizes):
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(2, 16, 2), mlp(1, 16, 2)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


class ELBO(Objective):
    """One player: the Gaussian VAE's evidence lower bound."""

    def __init__(self):
        super().__init__()
        self.model = VAE()

    def forward(self, players, batch, step):
        x = batch["x"]
        mean, log_std = self.model.encoder(x).chunk(2, 1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        rebuilt = (self.model.decoder(z) - x).square().sum(1) / 2
        kl = (mean**2 + (2 * log_std).exp() - 1).sum(1) / 2 - log_std.sum(1)
        return {"model": Loss.of((rebuilt + kl).mean(), rebuilt=rebuilt, kl=kl)}


class Adversarial(Objective):
    """Two players, from one forward pass."""

    ALTERNATING = (Phase(("critic",)), Phase(("generator",)))
    SIMULTANEOUS = (Phase(("critic", "generator")),)
    FIVE_TO_ONE = (Phase(("critic",), repeats=5), Phase(("generator",), fresh=False))

    def __init__(self, phases):
        super().__init__()
        self.model, self.critic, self.phases = mlp(2, 16, 2), mlp(2, 16, 1), phases
        self.register_buffer("moves", torch.zeros(2, dtype=torch.long))

    def players(self):
        return {"generator": self.model.parameters(), "critic": self.critic.parameters()}

    def forward(self, players, batch, step):
        fake = self.model(torch.randn_like(batch["x"]))
        real_logit, fake_logit = self.critic(batch["x"]), self.critic(fake)
        losses = {
            "critic": Loss.of((F.softplus(-real_logit) + F.softplus(fake_logit)).mean()),
            "generator": Loss.of(F.softplus(-fake_logit).mean(), logit=fake_logit),
        }
        return {name: losses[name] for name in players}

    def after(self, player, loss, step):
        self.moves[("generator", "critic").index(player)] += 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp(3, 32, 2)

    def forward(self, z, t):
        return self.body(torch.cat([z, t[:, None]], 1))


GAMES = {
    "vae": ELBO,
    "gan-alternating": lambda: Adversarial(Adversarial.ALTERNATING),
    "gan-simultaneous": lambda: Adversarial(Adversarial.SIMULTANEOUS),
    "gan-5:1": lambda: Adversarial(Adversarial.FIVE_TO_ONE),
    "diffusion": lambda: Denoising(Diffusion(NetworkDenoiser(Net(), CosineSchedule()), (2,))),
}


def ring(n=512):
    """Eight points on a circle of radius 3."""
    angle = torch.arange(n) * (2 * torch.pi / 8)
    return 3 * torch.stack([angle.cos(), angle.sin()], 1)


def ring_stream(batch_size=32):
    return pool_stream(batch_size, seed=0, x=ring())
