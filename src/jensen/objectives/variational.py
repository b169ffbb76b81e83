"""Train a latent-variable model by raising a bound."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.types import Batch, Loss, Phase, entry
from jensen.models.autodecoder import AutoDecoder
from jensen.models.hvae import LatentChain
from jensen.variational.annealing import Constraint, Scheduled, at_step
from jensen.variational.bounds import Bound, dreg, elbo, has_floor, iwae, scored, sticking_the_landing
from jensen.variational.inference import Inferring, first_rows
from jensen.variational.posterior import check_posterior
from jensen.variational.relaxed import Relaxation
from jensen.variational.trace import Trace

GRADIENTS = ("standard", "score", "stl", "dreg")
ONE_DRAW = (
    "the score function with one draw and no baseline is unbiased, but its variance grows with the square of the "
    "bound: with more draws each is the others' baseline"
)
RELAXED = {"concrete": "relaxed_elbo", "gumbel-softmax": "no_bound", "straight-through": "elbo"}
"""What the ELBO of a relaxed trace is reported as."""


class Traced(Protocol):
    """What this objective asks of a model, which is also a module."""

    def trace(self, x: Tensor, *, samples: int = 1, analytic: bool = False, reparameterized: bool = True) -> Trace: ...


class Variational(Objective):
    r"""Raise the mean over the batch of a bound on $\log p(x)$.

    The gradients for q, all of the same bound:

    - "standard": through the draws where a layer's family has a path, by the score function where it has none
      (each of the K draws with the others as its baseline);
    - "score": by the score function everywhere; with one draw and no baseline its variance grows with the square of
      the bound;
    - "stl": sticking the landing; biased for `iwae` with more than one sample; under free bits, biased too, refused;
    - "dreg": doubly reparameterized, for `iwae`: the encoder is then a player of its own.

    One-hot latents may be relaxed for training instead (`Relaxation`, which says what each kind bounds): "standard",
    and for "concrete" "stl" and "dreg" too, are then gradients of the relaxed trace's bound.

    What is legitimate but biased, or of large variance, is warned of when the objective is made; that a layer without
    a path has one draw and no baseline, at its first trace.

    Players: "model"; with "dreg" "encoder", the parameters of q, and "model", all others; with tables "posterior",
    their rows; with a `Constraint` for a bound, "multiplier"; with a learned baseline, "baseline", which descends its
    squared error. All move at once.

    Args:
        model: what is trained: anything with a `trace`.
        bound: of `jensen.variational`, or one for each step (`annealed(linear(1000))`), or a `Constraint`.
        samples: K, at least 1.
        gradient: one of the above.
        analytic: take divergences in closed form where there is one; not for `iwae`, "stl" or "dreg".
        baseline: module from x to (B, ...) of one number a row, the score function's instead of the other draws.
        relaxation: of one-hot latents; the temperature is of the step.
        tables: stochastic variational inference of an `AutoDecoder`: one module a layer from the batch's "index", the
            place of each datum in the training set, to its q (`posterior_table`, whose sparse gradients need
            `torch.optim.SparseAdam`).

    Raises:
        ValueError: if a setting is out of its range or does not go with another.

    Source: Kingma & Welling (2014), algorithm 1; Hoffman et al. (2013), section 2.3, for the tables;
    `jensen.variational` names each bound's and gradient's own.

    >>> from jensen.distributions import Conditional, GaussianPrior, IsotropicGaussian
    >>> from jensen.variational import posterior_table
    >>> model = AutoDecoder([Conditional(nn.Linear(2, 5), IsotropicGaussian())], GaussianPrior(2))
    >>> objective = Variational(model, tables=[posterior_table(100, 2)], analytic=True)
    >>> batch = {"x": torch.zeros(3, 5), "index": torch.tensor([4, 8, 15])}
    >>> sorted(objective(("model", "posterior"), batch, 0))
    ['model', 'posterior']
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
        relaxation: Relaxation | None = None,
        tables: Sequence[nn.Module] = (),
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
        if gradient == "stl":
            _refuse_floor(at_step(bound, 0))
        if relaxation is not None:
            _refuse_relaxed(relaxation, bound is iwae, gradient, analytic, baseline is not None)
        if tables:
            if not isinstance(model, AutoDecoder):
                raise ValueError(f"tables of q are for a model without an encoder, got a {type(model).__name__}")
            check_posterior(first_rows(tables), model.events, 1)
        for caution in cautions(bound is iwae, samples, gradient, baseline is not None):
            warnings.warn(caution, stacklevel=2)
        self.relaxation, self.tables = relaxation, nn.ModuleList(tables)
        self.model, self.bound, self.baseline = model, bound, baseline
        self.samples, self.gradient, self.analytic = samples, gradient, analytic
        self.phases = (Phase(tuple(self.players())),)

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        players = {"model": list(self.model.parameters())}
        if self.tables:
            players["posterior"] = list(self.tables.parameters())
        elif self.gradient == "dreg":
            encoder = set(self._encoding())
            players["encoder"] = [p for p in players["model"] if p in encoder]
            players["model"] = [p for p in players["model"] if p not in encoder]
        if isinstance(self.bound, Constraint):
            players["multiplier"] = list(self.bound.parameters())
        if self.baseline is not None:
            players["baseline"] = list(self.baseline.parameters())
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in players.items()}

    def forward(self, players: tuple[str, ...], batch: Batch, step: int) -> Mapping[str, Loss]:
        x = entry(batch, "x")
        trace = self._trace(batch, step)
        if self.gradient == "standard" and self.samples == 1 and self.baseline is None and not all(trace.pathwise):
            warnings.warn(ONE_DRAW, stacklevel=2)
        baseline = None if self.baseline is None else self.baseline(x).reshape(len(x))
        value = self._estimate(step, baseline)(trace)
        losses = {"model": Loss.of(-value.mean(), **self._terms(trace, step))}
        of_q = "posterior" if self.tables else "encoder"
        if of_q in players:
            losses[of_q] = Loss.of(-dreg(trace).mean() if self.gradient == "dreg" else losses["model"].total)
        if isinstance(self.bound, Constraint):
            losses["multiplier"] = Loss.of(value.mean(), multiplier=self.bound.multiplier)
        if baseline is not None:
            losses["baseline"] = Loss.of((value.detach() - baseline).square().mean())
        return {player: losses[player] for player in players}

    def _trace(self, batch: Batch, step: int) -> Trace:
        x = entry(batch, "x")
        if self.relaxation is not None:
            return self.relaxation.trace(cast(Inferring, self.model), x, samples=self.samples, step=step)
        trace = cast(Traced, self.model).trace
        if self.tables:
            index = entry(batch, "index")
            trace = partial(cast(AutoDecoder, self.model).trace, q=[table(index) for table in self.tables])
        return trace(x, samples=self.samples, analytic=self.analytic, reparameterized=self.gradient != "score")

    def _terms(self, trace: Trace, step: int) -> dict[str, Tensor]:
        """What is reported, under the name of what it bounds."""
        terms = report(trace)
        if self.relaxation is None:
            return terms
        elbo = terms.pop("elbo")
        return {RELAXED[self.relaxation.kind]: elbo, **terms, "temperature": elbo.new_tensor(self.relaxation.at(step))}

    def _estimate(self, step: int, baseline: Tensor | None) -> Bound:
        """The bound of this step, with its gradient."""
        bound = at_step(self.bound, step)
        if self.gradient == "stl":
            _refuse_floor(bound)
            return lambda trace: bound(sticking_the_landing(trace))
        return bound if self.gradient == "dreg" else scored(bound, baseline)

    def _encoding(self) -> list[nn.Parameter]:
        if not isinstance(self.model, LatentChain):
            raise ValueError(
                f"dreg needs a model that says which parameters are q's, not a {type(self.model).__name__}"
            )
        return self.model.encoding()


def cautions(is_iwae: bool, samples: int, gradient: str, baseline: bool) -> list[str]:
    """What to know of a gradient that is legitimate but biased, or of large variance: sentences."""
    found = []
    if gradient == "stl" and is_iwae and samples > 1:
        found.append(
            f"sticking the landing is biased for the encoder under IWAE with {samples} draws: dreg is the unbiased "
            "gradient that also leaves the score out (Tucker et al. 2019, section 4)"
        )
    if gradient == "score" and samples == 1 and not baseline:
        found.append(ONE_DRAW)
    return found


def _refuse_floor(bound: Bound) -> None:
    if has_floor(bound):
        raise ValueError("stl is biased under free bits, whose weights depend on the draws: choose another gradient")


def _refuse_relaxed(how: Relaxation, is_iwae: bool, gradient: str, analytic: bool, baseline: bool) -> None:
    if gradient == "score" or baseline:
        raise ValueError("relaxed draws have a path: choose gradient 'standard' and no baseline, or no relaxation")
    if analytic:
        raise ValueError("a relaxation says itself which terms are in closed form: choose analytic=False")
    if how.kind != "concrete" and (is_iwae or gradient != "standard"):
        raise ValueError(f"{how.kind} has its KL in closed form: iwae, stl and dreg need sampled terms, as concrete's")


@torch.no_grad()
def report(trace: Trace) -> dict[str, Tensor]:
    """The ELBO, whatever is descended, and its parts, (B,) or (K, B): "kl", or "kl_1", "kl_2", ... from the data up."""
    layers = len(trace.kl)
    names = ["kl"] if layers == 1 else [f"kl_{layer}" for layer in range(1, layers + 1)]
    return {"elbo": elbo(trace), "log_px": trace.log_px, **dict(zip(names, trace.kl, strict=True))}
