"""Error against evaluations of the denoiser: jensen's deterministic samplers beside diffusers' and azula's.

The denoiser is exact, so the end of every path is known, and what is left is the sampler's own error. All start from
the same noise and have the same schedule, start and end: see `exact.py`, and `peers/` for how each library is asked.
Nothing is timed, nothing depends on the machine but the last digits.

    python benchmarks/sampler_error.py --json error.json

An error is the mean distance to the exact end over the square root of the dimension, for data of unit variance. The
first tables have the best of each library at each count, over all its methods, options and grids; "peers / jensen" is
the smaller of the peers' errors over jensen's, so that 1 is the aim. The others have every method with the best of its
options and grids at each count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from typer import Option

from exact import F64, GRIDS, Problem, Run, problems, ring, times
from jensen.diffusion import SAMPLERS, Denoiser, Sampler, integrate
from machine import facts, table, write_json

try:
    from peers import azula_samplers, diffusers_samplers
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install -r benchmarks/requirements.txt")

COUNTS = (5, 8, 10, 16, 32)


@dataclass(frozen=True)
class Result:
    """One method of one library along one grid."""

    problem: str
    library: str
    method: str
    grid: str
    evaluations: int
    error: float

    @property
    def family(self) -> str:
        """The method without its options."""
        return self.method.partition(",")[0]


# jensen's ----------------------------------------------------------------------------------------


def offered() -> list[Any]:
    """Every deterministic sampler in `SAMPLERS`, in every order that it takes."""
    found = [s for s in SAMPLERS.values() if getattr(s, "deterministic", False)]
    return list(dict.fromkeys(variant for sampler in found for variant in _orders(sampler)))


def _orders(sampler: Any) -> Iterator[Any]:
    if not hasattr(sampler, "order"):
        yield sampler
        return
    for order in count(1):
        try:
            yield replace(sampler, order=order)
        except ValueError:  # more than it takes
            return


def title(sampler: Any) -> str:
    """Class, order, and whatever else is not at its default."""
    others = [(f.name, getattr(sampler, f.name)) for f in fields(sampler) if f.name != "order"]
    defaults = {f.name: f.default for f in fields(sampler)}
    changed = [f"{name}={value}" for name, value in others if value != defaults[name]]
    order = f" {sampler.order}" if hasattr(sampler, "order") else ""
    return ", ".join([type(sampler).__name__ + order, *changed])


def _run(sampler: Sampler, grid: Tensor, denoiser: Denoiser, z: Tensor) -> Tensor:
    return integrate(sampler, denoiser, z, grid)


def ours(evaluations: int) -> Iterator[tuple[str, str, Run]]:
    """(method, grid, run) with at most so many evaluations."""
    for sampler in offered():
        steps = evaluations // evaluations_a_step(sampler)
        for grid in GRIDS:
            yield title(sampler), grid, partial(_run, sampler, times(grid, steps))


def evaluations_a_step(sampler: Sampler) -> int:
    """Seen on a step inside the path."""
    return counted(partial(_run, sampler, times("uniform", 1)), ring(), torch.zeros(1, 2, dtype=F64))[0]


# everybody's -------------------------------------------------------------------------------------

LIBRARIES = {"jensen": ours, "azula": azula_samplers.runs, "diffusers": diffusers_samplers.runs}


def counted(run: Run, denoiser: Denoiser, z: Tensor) -> tuple[int, Tensor]:
    """How often the denoiser was asked, and what came out."""
    asked: list[None] = []
    hook = denoiser.register_forward_hook(lambda *_: asked.append(None))
    try:
        made = run(denoiser, z)
    finally:
        hook.remove()
    return len(asked), made


@torch.no_grad()
def measure(problem: Problem) -> list[Result]:
    """Every method of every library along every grid, at every count."""
    results = []
    for evaluations in COUNTS:
        for library, runs in LIBRARIES.items():
            for method, grid, run in runs(evaluations):
                asked, made = counted(run, problem.oracle, problem.start)
                if asked > evaluations:
                    raise RuntimeError(f"{library} {method} asked {asked} times, not {evaluations}")
                results.append(Result(problem.name, library, method, grid, evaluations, problem.error(made)))
    return results


def best(results: list[Result], **wanted: Any) -> Result:
    """The one of least error among those with these attributes."""
    return min(
        (r for r in results if all(getattr(r, name) == value for name, value in wanted.items())),
        key=lambda r: r.error,
    )


def libraries_table(results: list[Result]) -> str:
    """The best of each library, a row a count."""
    rows = []
    for evaluations in COUNTS:
        found = [best(results, library=name, evaluations=evaluations) for name in LIBRARIES]
        ratio = min(r.error for r in found[1:]) / found[0].error
        rows.append([evaluations, *(f"{r.error:.2e} ({r.method}; {r.grid})" for r in found), f"{ratio:.2f}"])
    return table(["evaluations", *LIBRARIES, "peers / jensen"], rows)


def methods_table(results: list[Result]) -> str:
    """The best of each method, a column a count, with its grid."""
    rows = []
    for library, family in dict.fromkeys((r.library, r.family) for r in results):
        found = [best(results, library=library, family=family, evaluations=n) for n in COUNTS]
        rows.append([library, family, *(f"{r.error:.1e} {r.grid}" for r in found)])
    return table(["library", "method", *map(str, COUNTS)], rows)


def main(
    rows: Annotated[int, Option(min=1, help="Paths a problem.")] = 512,
    markdown: Annotated[bool, Option(help="The tables alone, to paste.")] = False,
    json_file: Annotated[Path | None, Option("--json", help="Write every result here as well.")] = None,
) -> None:
    """Error against evaluations on exact denoisers, jensen beside diffusers and azula."""
    versions = {**facts(), "azula": version("azula")}
    if not markdown:
        print("\n".join(f"{name}: {value}" for name, value in versions.items()))
    everything = []
    for problem in problems(rows):
        results = measure(problem)
        everything += results
        if not markdown:
            print(f"\n{problem.name}: {rows} paths, their exact ends known to {problem.uncertainty:.0e}")
        print(f"\n{libraries_table(results)}\n\n{methods_table(results)}")
    write_json(json_file, {"facts": versions, "rows": [asdict(r) for r in everything]})


if __name__ == "__main__":
    typer.run(main)
