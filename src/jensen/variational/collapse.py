"""Which layers of latents a model uses, and which it ignores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from jensen.core.modes import evaluating
from jensen.core.seeding import drawing
from jensen.variational.trace import Layer, log_prob

Classifier = Callable[[Tensor], Tensor]
"""Rows of x to scores, (N, classes)."""


@runtime_checkable
class Hierarchy(Protocol):
    """A chain of latents, the one next to x first, that can be kept from a layer up and drawn again below."""

    def infer(self, x: Tensor, *, samples: int = 1) -> tuple[Layer, ...]: ...

    def law(self, layer: int, above: Tensor | None = None) -> Distribution: ...

    def prior_sample(self, shape: tuple[int, ...], given: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]: ...

    def log_px(self, x: Tensor, z: tuple[Tensor, ...]) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Measured:
    """A mean and its standard error.

    >>> print(Measured.of(torch.tensor([1.0, 3.0])))
    2.00 ± 1.00
    """

    value: float
    stderr: float

    @classmethod
    def of(cls, draws: Float[Tensor, " n"]) -> Measured:
        return cls(float(draws.mean()), float(draws.std()) / math.sqrt(len(draws)))

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"


@dataclass(frozen=True)
class LayerUse:
    """What one layer of latents is used for. Nats, per datum.

    Attributes:
        kl: its term of the bound.
        units: latent numbers.
        active: those whose posterior mean varies over the data by more than the threshold.
        doubtful: of the others, those of which so few data cannot tell.
        information: what it knows of which datum x is, I(x; z), at most log N.
        divergence: of its aggregated posterior from its prior.
        log_px_lost: how much log p(x | z) falls when its draws are replaced by its prior's.
        accuracy_lost: how much the accuracy of a classifier falls on what is decoded; None without one.
        least: log_px_lost up to this counts as nothing.
    """

    kl: Measured
    units: int
    active: int
    doubtful: int
    information: Measured
    divergence: Measured
    log_px_lost: Measured
    accuracy_lost: Measured | None
    least: float

    @property
    def silent(self) -> bool:
        """Whether it says nothing about x: no unit is active, nor may be."""
        return self.active == self.doubtful == 0

    @property
    def unread(self) -> bool:
        """Whether the decoder does as well without it: it loses at most `least` nats, and 2 standard errors more."""
        return self.log_px_lost.value + 2 * self.log_px_lost.stderr <= self.least

    @property
    def ignored(self) -> bool:
        return self.silent or self.unread

    @property
    def used(self) -> bool:
        """Whether some unit is active and the decoder loses more than `least` nats, by 2 standard errors."""
        return self.active > 0 and self.log_px_lost.value - 2 * self.log_px_lost.stderr > self.least

    @property
    def verdict(self) -> str:
        """Used, ignored, or undecided, where neither is beyond the errors."""
        if self.silent:
            return "ignored: it says nothing about x"
        if self.unread:
            return "ignored: it is written but not read"
        return "used" if self.used else "undecided: more data or draws would tell"


@dataclass(frozen=True)
class CollapseReport:
    """The use of every layer, the one next to x first; prints as a table and a sentence.

    Attributes:
        layers: one entry a layer.
        data, samples: how much it was measured on.
    """

    layers: tuple[LayerUse, ...]
    data: int
    samples: int

    @property
    def ignored(self) -> tuple[int, ...]:
        """The layers that are, counted from 1 next to x."""
        return tuple(number for number, layer in enumerate(self.layers, start=1) if layer.ignored)

    def __str__(self) -> str:
        judged = any(layer.accuracy_lost is not None for layer in self.layers)
        head = ["layer", "active", "KL", "I(x; z)", "KL(q(z) || p(z))", "log p(x|z) lost"]
        head += [*["accuracy lost"] * judged, ""]
        rows = [head, *(_row(number, layer, judged) for number, layer in enumerate(self.layers, start=1))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        first = f"{self.data} data, {self.samples} draws each; nats; log {self.data} = {self.log_data:.2f}"
        return "\n".join([first, *lines, self.sentence])

    @property
    def undecided(self) -> tuple[int, ...]:
        """The layers that are neither ignored nor used beyond the errors, counted from 1 next to x."""
        return tuple(n for n, layer in enumerate(self.layers, start=1) if not layer.ignored and not layer.used)

    @property
    def log_data(self) -> float:
        """Log N, the most that a layer can be seen to know of which datum x is."""
        return math.log(self.data)

    @property
    def sentence(self) -> str:
        """Which layers are ignored and which undecided, in words."""
        if len(self.ignored) == len(self.layers):
            return "The decoder ignores every latent." if len(self.layers) > 1 else "The decoder ignores its latents."
        told = [_named(n, which) for n, which in ((self.ignored, "ignored"), (self.undecided, "undecided")) if n]
        return " ".join(told) or "Every layer is used."


def _named(layers: tuple[int, ...], which: str) -> str:
    names = " and ".join(map(str, layers))
    return f"Layers {names} are {which}." if len(layers) > 1 else f"Layer {names} is {which}."


def _row(number: int, layer: LayerUse, judged: bool) -> list[str]:
    measured = [layer.kl, layer.information, layer.divergence, layer.log_px_lost, *[layer.accuracy_lost] * judged]
    return [str(number), f"{layer.active} of {layer.units}", *map(str, measured), layer.verdict]


@torch.no_grad()
def collapse_report(
    model: Hierarchy,
    data: Float[Tensor, "n ..."],
    *,
    samples: int = 8,
    classifier: Classifier | None = None,
    labels: Int[Tensor, " labels"] | None = None,
    threshold: float = 0.01,
    least: float = 0.1,
    chunk: int = 256,
    generator: torch.Generator | None = None,
) -> CollapseReport:
    r"""What every layer of latents is used for, the model in evaluation mode.

    - KL: the layer's term of the bound, in closed form where it has one.
    - Active units: $\mathrm{Var}_x(E_{q(z|x)} z) > 0.01$. The mean given the layer below is exact; over the draws
      below it is a mean of `samples`, and the variance the covariance of two halves' means, so that the draws' own
      noise does not count as activity. A unit within 2 standard errors of the threshold is doubtful.
    - Information and aggregated posterior: of $q(z) = \frac1N \sum_n q(z | x_n)$ of the data given (they are the
      population), over one draw of each $q(z | x_n)$, $I(x; z) = E \log q(z | x) / q(z)$ and
      $\mathrm{KL}(q(z) \| p(z)) = \mathrm{KL} - I(x; z)$: unbiased for the layer that sees x and a prior of closed
      form. $I \le \log N$: where it is near, the N posteriors lie apart, and the second is the KL less log N,
      whatever the prior and for all that more data would show. A layer above the first is conditioned on one draw of
      the layer below per datum, and the prior of a layer below the top is a mixture over N draws from above: both
      push the estimates up, less with more data.
    - Loss of $\log p(x | z)$ (and accuracy): layers above l keep their draws and those below are drawn from the
      model in both cases; layer l once from q, once from its prior given the layers above. Summed over l this is
      the loss when all latents come from the prior.

    A layer is ignored if no unit is active or at most `least` nats are lost, used if some is and more are, each by 2
    standard errors; else it is undecided.

    Args:
        model: a VAE, a hierarchy.
        data: (N, *event), N at least 2. The aggregated posterior takes time N^2.
        samples: draws for each datum, even and at least 2.
        classifier: of x, for the accuracy on what is decoded from one draw each; goes with `labels`.
        labels: (N,) classes.
        threshold: of the variance that makes a unit active.
        least: nats of log p(x | z) that count as nothing.
        chunk: data that go through the model together.
        generator: of all draws; None takes torch's global one.

    Raises:
        ValueError: for a setting out of its range, labels that do not fit, or a prior that cannot be drawn from.

    Source: Burda et al. (2016), section 5.2 for active units; Hoffman & Johnson (2016) for the aggregated posterior.
    """
    if len(data) < 2:
        raise ValueError(f"data must be at least 2, got {len(data)}")
    if samples < 2 or samples % 2:
        raise ValueError(f"samples must be even and at least 2, got {samples}")
    if not (threshold >= 0 and least >= 0):
        raise ValueError(f"threshold and least must be at least 0, got {threshold} and {least}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if (classifier is None) != (labels is None):
        raise ValueError("accuracy needs both a classifier and labels")
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"labels must be {len(data)}, one a datum, got {len(labels)}")
    labelled = data.new_zeros(len(data)) if labels is None else labels
    with evaluating(model), drawing(generator):
        pieces = [
            _measure(model, x, samples, None if classifier is None else _Judge(model, classifier, y))
            for x, y in zip(data.split(chunk), labelled.split(chunk), strict=True)
        ]
        aggregated = _aggregated(model, data, chunk)
    columns = [[torch.cat(parts) for parts in zip(*layer, strict=True)] for layer in zip(*pieces, strict=True)]
    return CollapseReport(
        tuple(
            LayerUse(
                kl=Measured.of(term),
                units=first[0].numel(),
                **_activity(first, second, threshold),
                information=information,
                divergence=divergence,
                log_px_lost=Measured.of(lost),
                accuracy_lost=Measured.of(wrong[0]) if wrong else None,
                least=least,
            )
            for (term, first, second, lost, *wrong), (information, divergence) in zip(columns, aggregated, strict=True)
        ),
        len(data),
        samples,
    )


@dataclass(frozen=True)
class _Judge:
    """Whether a classifier reads the right class from what one draw decodes to, (B,)."""

    model: Hierarchy
    classifier: Classifier
    labels: Tensor

    def __call__(self, z: tuple[Tensor, ...]) -> Tensor:
        scores = self.classifier(self.model.decode(z[0][0]))
        return (scores.argmax(-1) == self.labels).to(z[0].dtype)


def _measure(model: Hierarchy, x: Tensor, samples: int, judge: _Judge | None) -> list[list[Tensor]]:
    """For every layer: its term (B,), the posterior mean from either half of the draws (B, *event), what
    log p(x | z) loses (B,), and, with a judge, what the accuracy loses (B,).
    """
    layers = model.infer(x, samples=samples)
    z = tuple(layer.z for layer in layers)
    shape = (samples, len(x))
    kept = [z, *(model.prior_sample(shape, given=z[above:]) for above in range(1, len(z) + 1))]
    scores = [[model.log_px(x, draws).mean(0) for draws in kept]]
    if judge is not None:
        scores.append([judge(draws) for draws in kept])
    measured = []
    for number, layer in enumerate(layers):
        term, _ = layer.term(analytic=True)
        first, second = layer.q.mean.expand(layer.z.shape).chunk(2)
        lost = [score[number] - score[number + 1] for score in scores]
        measured.append([term.expand(shape).mean(0), first.mean(0), second.mean(0), *lost])
    return measured


def _activity(a: Tensor, b: Tensor, threshold: float) -> dict[str, int]:
    """Coordinates whose covariance over rows is above the threshold, and of the others those that may be."""
    products = (a - a.mean(0)) * (b - b.mean(0))
    covariance, stderr = products.sum(0) / (len(a) - 1), products.std(0) / len(a) ** 0.5
    active = covariance > threshold
    return {"active": int(active.sum()), "doubtful": int((~active & (covariance + 2 * stderr > threshold)).sum())}


def _aggregated(model: Hierarchy, data: Tensor, chunk: int) -> list[tuple[Measured, Measured]]:
    """I(x; z_l) and KL(q(z_l) || p(z_l)) of every layer, over one draw for each datum."""
    pieces = [model.infer(x, samples=1) for x in data.split(chunk)]
    top = len(pieces[0])
    prior = model.prior_sample((len(data),)) if top > 1 else ()
    found = []
    for number, parts in enumerate(zip(*pieces, strict=True), start=1):
        z = torch.cat([part.z[0] for part in parts])
        own = torch.cat([log_prob(part.q, part.z).squeeze(0) for part in parts])
        log_q = _log_mixture([part.q for part in parts], z, chunk)
        if number == top:
            log_p = log_prob(model.law(top), z)
        else:
            log_p = _log_mixture([model.law(number, above) for above in prior[number].split(chunk)], z, chunk)
        found.append((Measured.of(own - log_q), Measured.of(log_q - log_p)))
    return found


def _log_mixture(laws: Sequence[Distribution], z: Tensor, chunk: int) -> Tensor:
    """Log density at z (N, *event) of the equal mixture of all the laws, whose batches have N in all, (N,)."""
    rows = [torch.cat([log_prob(law, some[:, None]) for law in laws], 1).logsumexp(1) for some in z.split(chunk)]
    return torch.cat(rows) - math.log(len(z))
