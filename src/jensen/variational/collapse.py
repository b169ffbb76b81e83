"""Posterior collapse: which layers of latents a model uses, and which it ignores."""

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
from jensen.core.shapes import check_count, checked
from jensen.variational.trace import Layer, log_prob

Classifier = Callable[[Tensor], Tensor]
"""Maps rows of x to scores, (N, classes)."""


@runtime_checkable
class Hierarchy(Protocol):
    """A hierarchy of latents, the layer next to x first, whose lower layers can be redrawn given the upper ones."""

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
    @checked
    def of(cls, draws: Float[Tensor, " n"]) -> Measured:
        check_count(draws=len(draws))
        return cls(float(draws.mean()), float(draws.std()) / math.sqrt(len(draws)))

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"


@dataclass(frozen=True)
class LayerUse:
    """The use of one layer of latents, in nats per datum.

    Attributes:
        kl: the layer's term of the bound.
        units: number of latent coordinates.
        active: number of units whose posterior mean has a variance over the data above the threshold.
        doubtful: number of other units that are within the error of the threshold.
        information: mutual information I(x; z), at most log N.
        divergence: KL of its aggregated posterior from its prior.
        log_px_lost: decrease of log p(x | z) when its draws are replaced by draws from its prior.
        accuracy_lost: decrease of a classifier's accuracy on decoded data; None without a classifier.
        least: maximum log_px_lost that is considered negligible.
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
        """Whether the layer carries no information about x: no unit is active or doubtful."""
        return self.active == self.doubtful == 0

    @property
    def unread(self) -> bool:
        """Whether the decoder does not use the layer: the loss plus 2 standard errors is at most `least` nats."""
        return self.log_px_lost.value + 2 * self.log_px_lost.stderr <= self.least

    @property
    def ignored(self) -> bool:
        return self.silent or self.unread

    @property
    def used(self) -> bool:
        """Whether a unit is active and the loss minus 2 standard errors is more than `least` nats."""
        return self.active > 0 and self.log_px_lost.value - 2 * self.log_px_lost.stderr > self.least

    @property
    def verdict(self) -> str:
        """Used, ignored, or undecided if the standard errors are too large to tell."""
        if self.silent:
            return "ignored: it carries no information about x"
        if self.unread:
            return "ignored: the decoder does not use it"
        return "used" if self.used else "undecided: more data or draws are needed"


@dataclass(frozen=True)
class CollapseReport:
    """The use of every layer, the layer next to x first; prints as a table and a sentence.

    Attributes:
        layers: one entry per layer.
        data, samples: number of data, and of draws per datum.
    """

    layers: tuple[LayerUse, ...]
    data: int
    samples: int

    @property
    def ignored(self) -> tuple[int, ...]:
        """The ignored layers, counted from 1 next to x."""
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
        """The undecided layers, counted from 1 next to x."""
        return tuple(n for n, layer in enumerate(self.layers, start=1) if not layer.ignored and not layer.used)

    @property
    def log_data(self) -> float:
        """Log N, the largest mutual information that N data can show."""
        return math.log(self.data)

    @property
    def sentence(self) -> str:
        """A sentence on which layers are ignored and which are undecided."""
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
@checked
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
    r"""The use of every layer of latents by the model, in evaluation mode.

    - KL: the layer's term of the bound, in closed form where available.
    - Active units: $\mathrm{Var}_x(E_{q(z|x)} z) > 0.01$. The mean given the layer below is exact; over draws of the
      layer below it is a mean of `samples`, and the variance is the covariance of the means of two halves, so that
      sampling noise does not count as activity. A unit within 2 standard errors of the threshold is doubtful.
    - Information and aggregated posterior $q(z) = \frac1N \sum_n q(z | x_n)$ of the given data, with one draw of each
      $q(z | x_n)$: $I(x; z) = E \log q(z | x) / q(z)$ and $\mathrm{KL}(q(z) \| p(z)) = \mathrm{KL} - I(x; z)$, unbiased
      for the layer next to x and a closed-form prior. $I \le \log N$; near this limit the N posteriors do not overlap,
      and the second term is the KL minus log N, which would change with more data. A higher layer is conditioned on one
      draw of the layer below per datum, and the prior of a layer below the top is a mixture over N draws of the layer
      above: both bias the estimates upwards, by less with more data.
    - Loss of $\log p(x | z)$ (and accuracy): in both cases the layers above l keep their draws and those below are
      drawn from the model; layer l is drawn from q, or from its prior given the layers above. The sum over l is the
      loss if all latents come from the prior.

    A layer is ignored if no unit is active or the loss is at most `least` nats, used if a unit is active and the loss
    is larger, both by 2 standard errors; otherwise it is undecided.

    Args:
        model: a VAE or a hierarchy.
        data: (N, *event), N at least 2. The aggregated posterior takes time N^2.
        samples: number of draws per datum, even and at least 2.
        classifier: maps x to class scores, for the accuracy on data decoded from one draw each; requires `labels`.
        labels: (N,) classes.
        threshold: variance above which a unit is active.
        least: loss of log p(x | z) in nats that is considered negligible.
        chunk: number of data processed at a time.
        generator: random generator of all draws; None for torch's global one.

    Raises:
        ValueError: for a setting out of range, labels that do not fit, or a prior that cannot be sampled.

    Source: Burda et al. (2016), section 5.2 for active units; Hoffman & Johnson (2016) for the aggregated posterior.
    """
    if len(data) < 2:
        raise ValueError(f"data must have at least 2 rows, got {len(data)}")
    if samples < 2 or samples % 2:
        raise ValueError(f"samples must be even and at least 2, got {samples}")
    if not (threshold >= 0 and least >= 0):
        raise ValueError(f"threshold and least must be at least 0, got {threshold} and {least}")
    check_count(chunk=chunk)
    if (classifier is None) != (labels is None):
        raise ValueError("accuracy needs both a classifier and labels")
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"labels must have one entry per datum, {len(data)}, got {len(labels)}")
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
    """Whether a classifier finds the right class in the data decoded from one draw, (B,)."""

    model: Hierarchy
    classifier: Classifier
    labels: Tensor

    def __call__(self, z: tuple[Tensor, ...]) -> Tensor:
        scores = self.classifier(self.model.decode(z[0][0]))
        return (scores.argmax(-1) == self.labels).to(z[0].dtype)


def _measure(model: Hierarchy, x: Tensor, samples: int, judge: _Judge | None) -> list[list[Tensor]]:
    """For every layer: its term (B,), the posterior means from both halves of the draws (B, *event), the loss of
    log p(x | z) (B,), and, with a classifier, the loss of accuracy (B,).
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
    """The numbers of coordinates whose covariance over rows is above the threshold, and of doubtful ones."""
    products = (a - a.mean(0)) * (b - b.mean(0))
    covariance, stderr = products.sum(0) / (len(a) - 1), products.std(0) / len(a) ** 0.5
    active = covariance > threshold
    return {"active": int(active.sum()), "doubtful": int((~active & (covariance + 2 * stderr > threshold)).sum())}


def _aggregated(model: Hierarchy, data: Tensor, chunk: int) -> list[tuple[Measured, Measured]]:
    """I(x; z_l) and KL(q(z_l) || p(z_l)) of every layer, from one draw per datum."""
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
    """Log density (N,) at z (N, *event) of the equally weighted mixture of N distributions, given in batches."""
    rows = [torch.cat([log_prob(law, some[:, None]) for law in laws], 1).logsumexp(1) for some in z.split(chunk)]
    return torch.cat(rows) - math.log(len(z))
