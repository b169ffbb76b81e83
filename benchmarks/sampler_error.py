"""Error as a function of evaluations: deterministic samplers of jensen, diffusers and azula.

The denoiser is exact, so the exact end of every path is known, and all error is the sampler's. All libraries use
the same noise, schedule, start and end: see `exact.py`, and `peers/` for how each library is called. Nothing is timed;
only the last digits depend on the machine.

    python benchmarks/sampler_error.py --json error.json

An error is the mean distance to the exact end over the square root of the dimension, for data of unit variance. The
first tables show each library's smallest error at each number of evaluations, over all its methods, options and grids;
"peers / jensen" is the smaller of the peers' errors divided by jensen's. The others show each method with its best
options and grid at each number of evaluations.
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


# jensen ----------------------------------------------------------------------------------------


def offered() -> list[Any]:
    """Every deterministic sampler in `SAMPLERS`, in every order that it supports."""
    found = [s for s in SAMPLERS.values() if getattr(s, "deterministic", False)]
    return list(dict.fromkeys(variant for sampler in found for variant in _orders(sampler)))


def _orders(sampler: Any) -> Iterator[Any]:
    if not hasattr(sampler, "order"):
        yield sampler
        return
    for order in count(1):
        try:
            yield replace(sampler, order=order)
        except ValueError:  # a higher order than it has
            return


def title(sampler: Any) -> str:
    """Class, order, and other settings that are not at their default."""
    others = [(f.name, getattr(sampler, f.name)) for f in fields(sampler) if f.name != "order"]
    defaults = {f.name: f.default for f in fields(sampler)}
    changed = [f"{name}={value}" for name, value in others if value != defaults[name]]
    order = f" {sampler.order}" if hasattr(sampler, "order") else ""
    return ", ".join([type(sampler).__name__ + order, *changed])


def _run(sampler: Sampler, grid: Tensor, denoiser: Denoiser, z: Tensor) -> Tensor:
    return integrate(sampler, denoiser, z, grid)


def ours(evaluations: int) -> Iterator[tuple[str, str, Run]]:
    """Yields (method, grid, run) with at most this number of evaluations."""
    for sampler in offered():
        steps = evaluations // evaluations_a_step(sampler)
        for grid in GRIDS:
            yield title(sampler), grid, partial(_run, sampler, times(grid, steps))


def evaluations_a_step(sampler: Sampler) -> int:
    """Evaluations per step, counted on a step inside the path."""
    return counted(partial(_run, sampler, times("uniform", 1)), ring(), torch.zeros(1, 2, dtype=F64))[0]


# all libraries ---------------------------------------------------------------------------------

LIBRARIES = {"jensen": ours, "azula": azula_samplers.runs, "diffusers": diffusers_samplers.runs}


def counted(run: Run, denoiser: Denoiser, z: Tensor) -> tuple[int, Tensor]:
    """The number of evaluations of the denoiser, and the result."""
    asked: list[None] = []
    hook = denoiser.register_forward_hook(lambda *_: asked.append(None))
    try:
        made = run(denoiser, z)
    finally:
        hook.remove()
    return len(asked), made


@torch.no_grad()
def measure(problem: Problem) -> list[Result]:
    """Every method of every library on every grid, at every number of evaluations."""
    results = []
    for evaluations in COUNTS:
        for library, runs in LIBRARIES.items():
            for method, grid, run in runs(evaluations):
                asked, made = counted(run, problem.oracle, problem.start)
                if asked > evaluations:
                    raise RuntimeError(f"{library} {method} made {asked} evaluations, not {evaluations}")
                results.append(Result(problem.name, library, method, grid, evaluations, problem.error(made)))
    return results


def best(results: list[Result], **wanted: Any) -> Result:
    """The result with the smallest error among those with these attributes."""
    return min(
        (r for r in results if all(getattr(r, name) == value for name, value in wanted.items())),
        key=lambda r: r.error,
    )


def libraries_table(results: list[Result]) -> str:
    """The best of each library, one row per number of evaluations."""
    rows = []
    for evaluations in COUNTS:
        found = [best(results, library=name, evaluations=evaluations) for name in LIBRARIES]
        ratio = min(r.error for r in found[1:]) / found[0].error
        rows.append([evaluations, *(f"{r.error:.2e} ({r.method}; {r.grid})" for r in found), f"{ratio:.2f}"])
    return table(["evaluations", *LIBRARIES, "peers / jensen"], rows)


def methods_table(results: list[Result]) -> str:
    """The best of each method with its grid, one column per number of evaluations."""
    rows = []
    for library, family in dict.fromkeys((r.library, r.family) for r in results):
        found = [best(results, library=library, family=family, evaluations=n) for n in COUNTS]
        rows.append([library, family, *(f"{r.error:.1e} {r.grid}" for r in found)])
    return table(["library", "method", *map(str, COUNTS)], rows)


def main(
    rows: Annotated[int, Option(min=1, help="Paths per problem.")] = 512,
    markdown: Annotated[bool, Option(help="Print only the tables.")] = False,
    json_file: Annotated[Path | None, Option("--json", help="Write all results to this file too.")] = None,
) -> None:
    """Error as a function of evaluations with exact denoisers: jensen, diffusers and azula."""
    versions = {**facts(), "azula": version("azula")}
    if not markdown:
        print("\n".join(f"{name}: {value}" for name, value in versions.items()))
    everything = []
    for problem in problems(rows):
        results = measure(problem)
        everything += results
        if not markdown:
            print(f"\n{problem.name}: {rows} paths, exact ends known to {problem.uncertainty:.0e}")
        print(f"\n{libraries_table(results)}\n\n{methods_table(results)}")
    write_json(json_file, {"facts": versions, "rows": [asdict(r) for r in everything]})


if __name__ == "__main__":
    typer.run(main)
