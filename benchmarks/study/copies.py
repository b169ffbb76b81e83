"""Whether the model's pictures are copies of training pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.core.seeding import generator
from jensen.metrics import Memorisation, Proportion, nearest_distance, nearness
from study.pictures import PART, Study, digest_of, reduced

FEW = 0.02  # copies in the last control
NOISE = 8.0  # levels of 255, of the noise of a positive control
PAIRS = 6  # that are shown
CHUNK = 1024  # pictures that are compared at once
Z = 1.959963984540054


@dataclass(frozen=True)
class Nearness:
    """Distances of pictures to their nearest training pictures, against those of fresh pictures.

    Attributes:
        name: the pictures.
        n, fresh: number of pictures, and of fresh ones by the classical drawer.
        ratio: mean distance of the first over that of the second.
        test: the comparison of all distances.
    """

    name: str
    n: int
    fresh: int
    ratio: Proportion
    test: Memorisation


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        training: number of training pictures that were searched.
        rows: pictures of held-out texts, pictures of labels of training pictures, and the positive controls.
        closest: the pictures of the model that are closest to a training picture, and these, each (n, C, H, W).
        captions: texts of the first and of the second.
        distances: of these, in levels of 255.
    """

    training: int
    rows: list[Nearness]
    closest: tuple[Tensor, Tensor]
    captions: list[str]
    distances: list[float]


def measure(study: Study) -> Copies:
    """Compare distances to the nearest training picture."""
    known, origin = first_named(study)
    made, real = study.asked_pictures
    again = study.drawn("labels of training pictures", known)
    queries = {
        "held-out": made,
        "held-out, real": real,
        "known": again,
        "known, real": study.real("labels of training pictures", known),
        "noise": noisy(origin),
        "shift": origin.roll(1, 3),
    }
    distance, place = nearest(study, reduced(torch.cat(list(queries.values()))))
    found = dict(zip(queries, distance.split([len(x) for x in queries.values()]), strict=True))
    few = torch.cat([found["noise"][: round(FEW * len(real))], found["held-out, real"]])[: len(real)]
    rows = [
        compared("model, held-out texts", found["held-out"], found["held-out, real"]),
        compared("model, labels of training pictures", found["known"], found["known, real"]),
        compared(f"control: training pictures with noise of {NOISE:.0f} levels", found["noise"], found["known, real"]),
        compared("control: training pictures moved by a pixel", found["shift"], found["known, real"]),
        compared(f"control: fresh pictures, {FEW:.0%} of them copies with this noise", few, found["known, real"]),
    ]
    both = torch.cat([made, again])
    own = torch.cat([found["held-out"], found["known"]])
    places = torch.cat([place[: len(made)], place[len(made) + len(real) :][: len(again)]])
    near = own.argsort()[:PAIRS]
    names, theirs = study.painted(places[near].tolist())
    asked = [*study.asked, *known]
    captions = [label.split()[0] for label in (*(asked[k] for k in near.tolist()), *names)]
    return Copies(searched(study), rows, (both[near], theirs), captions, own[near].tolist())


def first_named(study: Study) -> tuple[list[str], Tensor]:
    """The first training pictures whose labels name all styles: their labels and pictures."""
    wanted, whole = study.sizes.known, 1 + len(study.texts.styles)
    names, pictures = list[str](), list[Tensor]()
    for first in range(0, searched(study), PART):
        labels, x = study.painted(range(first, min(first + PART, searched(study))))
        keep = [k for k, label in enumerate(labels) if len(label.split()) == whole]
        names += [labels[k] for k in keep]
        pictures.append(x[keep])
        if len(names) >= wanted:
            break
    return names[:wanted], torch.cat(pictures)[:wanted]


def searched(study: Study) -> int:
    """Number of training pictures among which neighbours are searched."""
    return min(study.source.pictures, study.sizes.training or study.source.pictures)


def noisy(x: Tensor) -> Tensor:
    """Pictures, uint8, with Gaussian noise."""
    return (x + NOISE * torch.randn(x.shape, generator=generator(0))).round().clamp(0, 255).byte()


def nearest(study: Study, x: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of pictures to the nearest training picture, in levels of 255, and its number; both are kept."""

    def make() -> dict[str, Tensor]:
        n, seed = searched(study), study.training_seed
        known = reduced(study.random("training pictures", study.style, n, "train", seed)[1])
        advance, found = study.track("nearest training pictures", len(x)), []
        for part in x.split(CHUNK):
            found.append(nearest_distance(part, known, chunk=CHUNK))
            advance(len(part))
        return {"distance": torch.cat([d for d, _ in found]), "place": torch.cat([k for _, k in found])}

    kept = study.store.kept("nearest", (digest_of(x), searched(study), study.training_seed), make)
    return kept["distance"], kept["place"]


def compared(name: str, drawn: Tensor, fresh: Tensor) -> Nearness:
    """Distances of pictures against those of fresh ones."""
    return Nearness(name, len(drawn), len(fresh), ratio_of_means(drawn, fresh), nearness(drawn, fresh))


def ratio_of_means(x: Tensor, y: Tensor) -> Proportion:
    """Mean of x (N,) over mean of y (M,), with the interval of the logarithm by the delta method; 0 if all x are 0."""
    x, y = x.double(), y.double()
    value = float(x.mean() / y.mean())
    if not value:
        return Proportion(0.0, 0.0, 0.0, len(x))
    error = math.sqrt(sum(float(v.var() / len(v) / v.mean() ** 2) for v in (x, y)))
    return Proportion(value, value * math.exp(-Z * error), value * math.exp(Z * error), len(x))
