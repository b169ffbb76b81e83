"""Train a latent-variable model by raising a bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, Phase, entry
from jensen.models.hvae import LatentChain
from jensen.variational.annealing import Constraint, Scheduled
from jensen.variational.bounds import Bound, dreg, elbo, iwae, scored, sticking_the_landing
from jensen.variational.trace import Trace

GRADIENTS = ("standard", "score", "stl", "dreg")


class Traced(Protocol):
    """What this objective asks of a model, which is also a module."""

    def trace(self, x: Tensor, *, samples: int = 1, analytic: bool = False, reparameterized: bool = True) -> Trace: ...


class Variational(Objective):
    r"""Raise the mean over the batch of a bound on $\log p(x)$.

    The gradients for q, all of the same bound:

    - "standard": through the draws where a layer's family has a path, by the score function where it has none
      (each of the K draws with the others as its baseline);
    - "score": by the score function everywhere;
    - "stl": sticking the landing; biased for `iwae` with more than one sample;
    - "dreg": doubly reparameterized, for `iwae`: the encoder is then a player of its own.

    Players: "model"; with "dreg" "encoder", the parameters of q, and "model", all others; with a `Constraint` for
    a bound, "multiplier"; with a learned baseline, "baseline", which descends its squared error. All move at once.

    Args:
        model: what is trained: anything with a `trace`.
        bound: of `jensen.variational`, or one for each step (`annealed(linear(1000))`), or a `Constraint`.
        samples: K, at least 1.
        gradient: one of the above.
        analytic: take divergences in closed form where there is one; not for `iwae`, "stl" or "dreg".
        baseline: module from x to (B, ...) of one number a row, the score function's instead of the other draws.

    Raises:
        ValueError: if a setting is out of its range or does not go with another.

    Source: Kingma & Welling (2014), algorithm 1; `jensen.variational` names each bound's and gradient's own.
    """

    def __init__(
        self,
        model: nn.Module,
        bound: Bound | Scheduled = elbo,
        *,
        samples: int = 1,
        gradient: str = "standard",
        analytic: bool = False,
        baseline: nn.Module | None = None,
    ):
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if gradient == "dreg" and bound is not iwae:
            raise ValueError("dreg is a gradient of iwae: choose that bound, or another gradient")
        if analytic and (bound is iwae or gradient == "stl"):
            raise ValueError("iwae and stl need sampled terms: choose analytic=False")
        if baseline is not None and gradient not in ("standard", "score"):
            raise ValueError(f"a baseline is for the score function, and gradient {gradient!r} has none")
        self.model, self.bound, self.baseline = model, bound, baseline
        self.samples, self.gradient, self.analytic = samples, gradient, analytic
        self.phases = (Phase(tuple(self.players())),)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        encoder = set(self._encoding()) if self.gradient == "dreg" else set()
        players = {"model": [p for p in self.model.parameters() if p not in encoder]}
        if self.gradient == "dreg":
            players["encoder"] = [p for p in self.model.parameters() if p in encoder]
        if isinstance(self.bound, Constraint):
            players["multiplier"] = list(self.bound.parameters())
        if self.baseline is not None:
            players["baseline"] = list(self.baseline.parameters())
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in players.items()}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x = entry(batch, "x")
        trace = cast(Traced, self.model).trace(
            x, samples=self.samples, analytic=self.analytic, reparameterized=self.gradient != "score"
        )
        baseline = None if self.baseline is None else self.baseline(x).reshape(len(x))
        value = self._estimate(step, baseline)(trace)
        losses = {"model": Loss.of(-value.mean(), **report(trace))}
        if "encoder" in players:
            losses["encoder"] = Loss.of(-dreg(trace).mean())
        if isinstance(self.bound, Constraint):
            losses["multiplier"] = Loss.of(value.mean(), multiplier=self.bound.multiplier)
        if baseline is not None:
            losses["baseline"] = Loss.of((value.detach() - baseline).square().mean())
        return {player: losses[player] for player in players}

    def _estimate(self, step: int, baseline: Tensor | None) -> Bound:
        """The bound of this step, with its gradient."""
        bound = self.bound.at(step) if isinstance(self.bound, Scheduled) else self.bound
        if self.gradient == "stl":
            return lambda trace: bound(sticking_the_landing(trace))
        return bound if self.gradient == "dreg" else scored(bound, baseline)

    def _encoding(self) -> list[nn.Parameter]:
        if not isinstance(self.model, LatentChain):
            raise ValueError(
                f"dreg needs a model that says which parameters are q's, not a {type(self.model).__name__}"
            )
        return self.model.encoding()


@torch.no_grad()
def report(trace: Trace) -> dict[str, Tensor]:
    """The ELBO, whatever is descended, and its parts, (B,) or (K, B): "kl", or "kl_1", "kl_2", ... from the data up."""
    layers = len(trace.kl)
    names = ["kl"] if layers == 1 else [f"kl_{layer}" for layer in range(1, layers + 1)]
    return {"elbo": elbo(trace), "log_px": trace.log_px, **dict(zip(names, trace.kl, strict=True))}
