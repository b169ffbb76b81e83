"""Train a latent variable model by maximising a bound."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from jensen.core.objective import Objective
from jensen.core.shapes import check_count
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
    "bound: use more draws, each of which is a baseline for the others"
)
RELAXED = {"concrete": "relaxed_elbo", "gumbel-softmax": "no_bound", "straight-through": "elbo"}
"""Names under which the ELBO of a relaxed trace is reported."""


class Traced(Protocol):
    """The requirements of this objective on a model, besides being a module."""

    def trace(self, x: Tensor, *, samples: int = 1, analytic: bool = False, reparameterized: bool = True) -> Trace: ...


class Variational(Objective):
    r"""Maximise the batch mean of a bound on $\log p(x)$.

    The gradient estimators for q, all for the same bound:

    - "standard": through the draws where a layer is reparameterized, otherwise by the score function (with the other
      draws as the baseline of each of the K draws);
    - "score": the score function everywhere; with one draw and no baseline its variance grows with the square of the
      bound;
    - "stl": sticking the landing; biased for `iwae` with more than one sample, and refused under free bits, where it is
      biased too;
    - "dreg": doubly reparameterized, for `iwae`; the encoder is then a separate player.

    One-hot latents may be relaxed during training (see `Relaxation` for what each kind bounds): "standard", and for
    "concrete" also "stl" and "dreg", are then gradients of the bound of the relaxed trace.

    Choices that are legitimate but biased or of large variance raise a warning, in the constructor or at the first
    trace of a layer without reparameterization.

    Players: "model"; with "dreg" also "encoder", the parameters of q; with tables "posterior", their rows; with a
    `Constraint` as bound "multiplier"; with a learned baseline "baseline", which minimises its squared error. All
    players are updated at once.

    Args:
        model: any module with a `trace`.
        bound: a bound of `jensen.variational`, a schedule of bounds (`annealed(linear(1000))`), or a `Constraint`.
        samples: number of draws K, at least 1.
        gradient: one of the above.
        analytic: use closed-form KL divergences where available; not for `iwae`, "stl" or "dreg".
        baseline: module from x to one number per row, used as the score function's baseline instead of the other draws.
        relaxation: relaxation of one-hot latents during training.
        tables: stochastic variational inference of an `AutoDecoder`: one module per layer that maps the batch's
            "index", the position of each datum in the training set, to its q (`posterior_table`, whose sparse gradients
            need `torch.optim.SparseAdam`).

    Raises:
        ValueError: if a setting is out of range or incompatible with another.

    Source: Kingma & Welling (2014), algorithm 1; Hoffman et al. (2013), section 2.3, for the tables; the bounds and
    gradients cite their own sources.

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
        check_count(samples=samples)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if gradient == "dreg" and bound is not iwae:
            raise ValueError("gradient 'dreg' is for the bound iwae: choose that bound or another gradient")
        if analytic and (bound is iwae or gradient == "stl"):
            raise ValueError("analytic must be False for iwae and stl, which need sampled terms")
        if baseline is not None and gradient not in ("standard", "score"):
            raise ValueError(f"baseline must be None for gradient {gradient!r}, which does not use the score function")
        if gradient == "stl":
            _refuse_floor(at_step(bound, 0))
        if relaxation is not None:
            _refuse_relaxed(relaxation, bound is iwae, gradient, analytic, baseline is not None)
        if tables:
            if not isinstance(model, AutoDecoder):
                raise ValueError(f"model must be an AutoDecoder if there are tables of q, got a {type(model).__name__}")
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
        """The reported terms; the ELBO of a relaxed trace is reported under another name."""
        terms = report(trace)
        if self.relaxation is None:
            return terms
        elbo = terms.pop("elbo")
        return {RELAXED[self.relaxation.kind]: elbo, **terms, "temperature": elbo.new_tensor(self.relaxation.at(step))}

    def _estimate(self, step: int, baseline: Tensor | None) -> Bound:
        """The bound of this step, with the chosen gradient."""
        bound = at_step(self.bound, step)
        if self.gradient == "stl":
            _refuse_floor(bound)
            return lambda trace: bound(sticking_the_landing(trace))
        return bound if self.gradient == "dreg" else scored(bound, baseline)

    def _encoding(self) -> list[nn.Parameter]:
        if not isinstance(self.model, LatentChain):
            raise ValueError(
                f"model must be a LatentChain for 'dreg', to know q's parameters, got a {type(self.model).__name__}"
            )
        return self.model.encoding()


def cautions(is_iwae: bool, samples: int, gradient: str, baseline: bool) -> list[str]:
    """Warnings for gradients that are legitimate but biased or of large variance."""
    found = []
    if gradient == "stl" and is_iwae and samples > 1:
        found.append(
            f"sticking the landing is biased for the encoder under IWAE with {samples} draws: dreg is unbiased and "
            "removes the score term too (Tucker et al. 2019, section 4)"
        )
    if gradient == "score" and samples == 1 and not baseline:
        found.append(ONE_DRAW)
    return found


def _refuse_floor(bound: Bound) -> None:
    if has_floor(bound):
        raise ValueError("gradient 'stl' is biased under free bits, whose weights depend on the draws: choose another")


def _refuse_relaxed(how: Relaxation, is_iwae: bool, gradient: str, analytic: bool, baseline: bool) -> None:
    if gradient == "score" or baseline:
        raise ValueError("relaxed draws are reparameterized: choose gradient 'standard' and no baseline")
    if analytic:
        raise ValueError("analytic must be False with a relaxation, which determines the closed-form terms itself")
    if how.kind != "concrete" and (is_iwae or gradient != "standard"):
        raise ValueError(
            f"iwae, stl and dreg need sampled terms, as in kind 'concrete'; the KL of {how.kind} is in closed form"
        )


@torch.no_grad()
def report(trace: Trace) -> dict[str, Tensor]:
    """The ELBO for every bound, and its parts, (B,) or (K, B): "kl", or "kl_1" (next to x), "kl_2", ..."""
    layers = len(trace.kl)
    names = ["kl"] if layers == 1 else [f"kl_{layer}" for layer in range(1, layers + 1)]
    return {"elbo": elbo(trace), "log_px": trace.log_px, **dict(zip(names, trace.kl, strict=True))}
