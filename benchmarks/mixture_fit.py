"""Seconds to fit a Bayesian Gaussian mixture to a held-out likelihood: jensen and scikit-learn.

A million points in 16 dimensions from a mixture of 50 Gaussians with unequal weights, sizes and shapes, which overlap;
both fit 50 components with full covariances and the same weak prior, in float64, with their libraries' default number
of threads. scikit-learn's is `BayesianGaussianMixture(weight_concentration_prior_type="dirichlet_distribution")`.

    python benchmarks/mixture_fit.py --json mixture.json

There are two comparisons. "same start": both start from the same responsibilities, so they have the same parameters
after the same number of sweeps, and the ratio is that of the times per sweep; the table shows the difference between
the likelihoods. "own start": each with its default initialisation (scikit-learn: k-means on all points; jensen: the
best of five runs of k-means on 20,000 points), until it reaches the final held-out likelihood of scikit-learn. Which
local optimum is found depends on the seed for both; if jensen ends below the target, it starts again with the next
seed, and the time of all starts counts. jensen also runs in float32, and with natural-gradient steps on batches of
8,192 before the sweeps.

The held-out log-likelihood is that of the predictive density, a mixture of Student's t, in nats per point. The same
code computes it from each posterior, and its time does not count. scikit-learn's `score` is not normalised and not
used.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from torch import Tensor
from typer import Option

from jensen.core.seeding import generator
from jensen.variational import GaussianMixtureVI, MixturePrior
from jensen.variational.mean_field import MixtureFactors, NormalWishart
from jensen.variational.mean_field.quadratic import features
from machine import facts, table, write_json

F64 = torch.float64
STARTS = 4  # largest number of jensen's starts, until one reaches the target


# Data and evaluation -----------------------------------------------------------------------------


def draws(n: int, dims: int, components: int, seed: int, spread: float) -> Tensor:
    """Points (N, D), float64, from a mixture whose neighbouring components overlap."""
    rng = generator(seed)
    centres = spread * torch.randn(components, dims, dtype=F64, generator=rng)
    roots = torch.randn(components, dims, dims, dtype=F64, generator=rng) / dims**0.5 + 0.5 * torch.eye(dims, dtype=F64)
    roots = roots * torch.exp(0.3 * torch.randn(components, 1, 1, dtype=F64, generator=rng))
    weights = torch.rand(components, dtype=F64, generator=rng) + 0.2
    label = torch.multinomial(weights, n, replacement=True, generator=rng)
    x = torch.randn(n, dims, dtype=F64, generator=rng)
    for k in range(components):
        x[label == k] = centres[k] + x[label == k] @ roots[k].T
    return x


def held_out(factors: MixtureFactors, x: Tensor) -> float:
    """Mean predictive log-density in nats, rows taken 2,000 at a time."""
    parts = [factors.log_predictive(factors.distance @ features(part)).logsumexp(0) for part in x.split(2000)]
    return float(torch.cat(parts).mean())


# The contenders ----------------------------------------------------------------------------------


@dataclass
class Run:
    """One fit.

    Attributes:
        name: name of the fit.
        seconds: time after each sweep, including the initialisation if it is timed.
        factors: the posterior after each sweep.
        likelihood: held-out log-likelihood after each sweep.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    factors: list[MixtureFactors] = field(default_factory=list)
    likelihood: list[float] = field(default_factory=list)

    def judge(self, x: Tensor) -> None:
        self.likelihood = [held_out(f, x) for f in self.factors]

    def reached(self, target: float) -> float | None:
        """Seconds until the likelihood first reached this value."""
        return next((s for s, v in zip(self.seconds, self.likelihood, strict=True) if v >= target), None)

    @property
    def sweep(self) -> float:
        """Seconds per sweep, the median."""
        return float(np.median(np.diff(self.seconds)))


class Clocked(BayesianGaussianMixture):
    """scikit-learn's mixture that keeps its parameters after every iteration; starts from responsibilities if given."""

    run: Run
    began: float
    responsibilities: np.ndarray | None = None

    def _initialize_parameters(self, x: Any, random_state: Any, xp: Any = None) -> None:
        if self.responsibilities is None:
            super()._initialize_parameters(x, random_state, xp=xp)
        else:
            self._initialize(x, self.responsibilities)

    def _compute_lower_bound(self, *args: Any) -> float:
        bound = super()._compute_lower_bound(*args)
        self.run.seconds.append(time.perf_counter() - self.began)
        its = (
            self.weight_concentration_,
            self.means_,
            self.mean_precision_,
            self.degrees_of_freedom_,
            self.covariances_ * self.degrees_of_freedom_[:, None, None],
        )
        concentration, mean, strength, degrees, scatter = (torch.from_numpy(np.array(v)) for v in its)
        self.run.factors.append(MixtureFactors(concentration, NormalWishart(mean, strength, degrees, scatter)))
        print(f"{self.run.name}: iteration {len(self.run.seconds)}, {self.run.seconds[-1]:.1f} s", file=sys.stderr)
        return bound


def peer(x: Tensor, components: int, iterations: int, responsibilities: Tensor | None = None) -> Run:
    """scikit-learn for a number of iterations."""
    model = Clocked(
        n_components=components,
        weight_concentration_prior_type="dirichlet_distribution",
        reg_covar=0.0,
        tol=0.0,
        max_iter=iterations,
        random_state=0,
    )
    model.run = Run("scikit-learn")
    model.responsibilities = None if responsibilities is None else responsibilities.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.began = time.perf_counter()
        model.fit(x.numpy())
    return model.run


def ours(
    name: str,
    x: Tensor,
    components: int,
    sweeps: int,
    responsibilities: Tensor | None = None,
    steps: int = 0,
    seed: int = 0,
) -> Run:
    """Jensen for a number of sweeps, after a number of natural-gradient steps on batches."""
    run = Run(name)
    began = time.perf_counter()
    mixture = GaussianMixtureVI(components, MixturePrior.around(x, components))

    def seen(*_: object) -> None:
        run.seconds.append(time.perf_counter() - began)
        run.factors.append(mixture.factors)

    mixture.start(x, responsibilities, generator=generator(seed))
    if steps:
        mixture.fit_stochastic(x, steps=steps, batch=8192, generator=generator(seed))
        seen()
    mixture.fit(x, sweeps=sweeps, tolerance=0.0, on_sweep=seen)
    print(f"{name}: {len(run.seconds)} sweeps, {run.seconds[-1]:.1f} s", file=sys.stderr)
    return run


def peak_memory(work: Callable[[], object]) -> float | None:
    """Peak MiB of `work`, minus the memory before it; None where Linux does not count it."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        work()
        return None

    def held(name: str) -> float:
        return next(float(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name))

    reset.write_text("5")  # reset the peak to the current memory
    before = held("VmRSS:")
    work()
    return held("VmHWM:") - before


# The comparisons ---------------------------------------------------------------------------------


def same_start(x: Tensor, test: Tensor, components: int, sweeps: int) -> list[dict[str, Any]]:
    """Seconds per sweep, and the difference between the likelihoods after the last one."""
    seeded = GaussianMixtureVI(components, MixturePrior.around(x, components))
    seeded.start(x, generator=generator(0))
    start = seeded.responsibilities(x)
    runs = [ours("jensen", x, components, sweeps, start), ours("jensen, float32", x.float(), components, sweeps, start)]
    runs.insert(0, peer(x, components, sweeps, start))
    for run in runs:
        run.factors = run.factors[-1:]
        run.judge(test)
    base = runs[0]
    return [
        {
            "fit": run.name,
            "seconds_a_sweep": run.sweep,
            "ratio": base.sweep / run.sweep,
            "held_out": run.likelihood[-1],
            "apart": run.likelihood[-1] - base.likelihood[-1],
            "seconds": run.seconds,
        }
        for run in runs
    ]


def own_start(x: Tensor, test: Tensor, components: int, iterations: int, sweeps: int) -> list[dict[str, Any]]:
    """Seconds to the final likelihood of scikit-learn."""
    base = peer(x, components, iterations)
    base.judge(test)
    target, epoch = base.likelihood[-1], len(x) // 8192
    rows = [row([base], target, base.seconds[-1])]
    for name, data, steps in (
        ("jensen", x, 0),
        ("jensen, float32", x.float(), 0),
        ("jensen, batches first", x, epoch),
    ):
        runs: list[Run] = []
        while len(runs) < STARTS and not (runs and runs[-1].reached(target)):
            runs.append(ours(name, data, components, sweeps, steps=steps, seed=len(runs)))
            runs[-1].judge(test)
        rows.append(row(runs, target, base.seconds[-1]))
    return rows


def row(runs: list[Run], target: float, seconds: float) -> dict[str, Any]:
    """A row of the table; of the successive starts `runs` only the last may have reached the target."""
    last = runs[-1].reached(target)
    reached = None if last is None else sum(r.seconds[-1] for r in runs[:-1]) + last
    return {
        "fit": runs[0].name,
        "starts": len(runs),
        "seconds_to_target": reached,
        "ratio": None if reached is None else seconds / reached,
        "held_out_at_the_end": [r.likelihood[-1] for r in runs],
        "seconds": [r.seconds for r in runs],
        "held_out": [r.likelihood for r in runs],
    }


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main(
    points: Annotated[int, Option(min=1000, help="Number of points to fit.")] = 1_000_000,
    dims: Annotated[int, Option(min=1)] = 16,
    components: Annotated[int, Option(min=1)] = 50,
    spread: Annotated[float, Option(min=0, help="Spread of the true means; component width is about 1.")] = 1.5,
    test_points: Annotated[int, Option("--test", min=100, help="Number of held-out points.")] = 50_000,
    shared: Annotated[int, Option(min=0, help="Sweeps from the same start; 0: no comparison.")] = 4,
    iterations: Annotated[int, Option(min=0, help="scikit-learn's iterations from its own start; 0: none.")] = 8,
    sweeps: Annotated[int, Option(min=2, help="Sweeps of jensen from its own start.")] = 20,
    json_file: Annotated[Path | None, Option("--json", help="Write the results to this file too.")] = None,
) -> None:
    """Seconds to fit a mixture: jensen and scikit-learn."""
    data = draws(points + test_points, dims, components, 0, spread)
    x, test = data[:points].clone(), data[points:].clone()
    del data
    memory = peak_memory(lambda: ours("warm-up", x, components, 1))
    print("\n".join(f"{name}: {value}" for name, value in facts().items()))
    print(f"{points:,} points, {dims} dimensions, {components} components; {test_points:,} held out")
    print(f"jensen's memory beside the data ({x.nbytes / 2**20:.0f} MiB): {number(memory, 0)} MiB\n")
    result: dict[str, Any] = {"facts": facts(), "points": points, "dims": dims, "components": components}
    result |= {"spread": spread, "memory_mib": memory}
    if shared:
        result["same_start"] = rows = same_start(x, test, components, max(2, shared))
        cells = [
            (r["fit"], f"{r['seconds_a_sweep']:.2f}", f"{r['ratio']:.1f}", f"{r['held_out']:.4f}", f"{r['apart']:+.1e}")
            for r in rows
        ]
        header = ("fit, same start", "seconds per sweep", "ratio", "held out", "difference")
        print(table(header, cells), end="\n\n")
    if iterations:
        result["own_start"] = rows = own_start(x, test, components, iterations, sweeps)
        cells = [
            (
                r["fit"],
                number(r["seconds_to_target"], 1),
                number(r["ratio"], 1),
                r["starts"],
                ", ".join(f"{v:.3f}" for v in r["held_out_at_the_end"]),
                ", ".join(f"{s[-1]:.0f}" for s in r["seconds"]),
            )
            for r in rows
        ]
        header = ("fit, own start", "seconds to target", "ratio", "starts", "held out at their ends", "after seconds")
        print(table(header, cells))
    write_json(json_file, result)


if __name__ == "__main__":
    typer.run(main)
