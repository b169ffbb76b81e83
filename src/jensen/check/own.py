"""The laws of a Python file: what the file defines is found by name and tested by the checks of this package."""

from __future__ import annotations

import inspect
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.nn import Module

from jensen.check.elbo import ELBO, elbo
from jensen.check.evidence import Evidence, Report
from jensen.check.law import Law, draws

METHODS = ("loss", "encode", "decode")
CONVENTION = "an ELBO (loss, encode, decode, and a batch x), a function check_..., or a law"


def laws_of_file(path: Path) -> list[Law]:
    """Run a Python file and make laws of what it defines, in order.

    - An ELBO: an object, or a class that can be constructed without arguments, with `loss(x)`, `encode(x)` and
      `decode(z)`; or three functions of these names. Its examples are its attribute `x`, or the variable x of the file.
      `jensen.check.elbo` checks it.
    - A function `check_...` without arguments that returns a `Report`, one `Evidence`, or several: it can apply any
      function of `jensen.check` to the code of the file.
    - A `Law` made by `jensen.check.law`.

    The name of a law is the file name without its ending, followed by the name of the object.

    Raises:
        ValueError: for a file that is missing or raises, an ELBO without examples, or a file without any of these.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)
    try:
        found = runpy.run_path(str(path), run_name=path.stem)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} could not be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(beside)
    own = {name: value for name, value in found.items() if not name.startswith("__") and _defined(value, path.stem)}
    laws = [law for name, value in own.items() for law in _laws(f"{path.stem}/{name}", name, value, found, path)]
    if all(callable(found.get(name)) for name in METHODS):
        kept = {k: v for k, v in found.items() if k in (*METHODS, "prior") or isinstance(v, Module)}
        functions = SimpleNamespace(**kept)
        laws.append(_elbo(f"{path.stem}/loss", functions, found, path))
    if not laws:
        raise ValueError(f"{path} must define {CONVENTION}: found {', '.join(own) or 'nothing'}")
    return laws


def _defined(value: Any, module: str) -> bool:
    """Whether a class or a function is defined in the file and not imported."""
    return not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__ == module


def _laws(name: str, short: str, value: Any, file: Mapping[str, Any], path: Path) -> Iterable[Law]:
    if isinstance(value, Law):
        yield value
    elif inspect.isfunction(value) and short.startswith("check_"):
        yield _check(name, value)
    elif inspect.isclass(value):
        used = any(type(other) is value for other in file.values())
        if all(callable(getattr(value, method, None)) for method in METHODS) and not used and _plain(value):
            yield _elbo(name, _made(value, path), file, path)
    elif isinstance(value, ELBO):
        yield _elbo(name, value, file, path)


def _plain(kind: type) -> bool:
    """Whether a class can be constructed without arguments."""
    empty = inspect.Parameter.empty
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not empty or p.kind in kinds for p in inspect.signature(kind).parameters.values())


def _made(kind: type, path: Path) -> Any:
    try:
        return kind()
    except Exception as error:
        raise ValueError(f"{path}: {kind.__name__}() could not be made: {type(error).__name__}: {error}") from error


def _elbo(name: str, model: Any, file: Mapping[str, Any], path: Path) -> Law:
    x = getattr(model, "x", file.get("x"))
    if not isinstance(x, Tensor):
        raise ValueError(f"{path} must define x, a batch of examples (B, ...) for the ELBO {name.partition('/')[2]}")
    return Law(
        name=name,
        formula=r"E[-\mathrm{loss}(x)] = E_q[\log p(x|z) + \log p(z) - \log q(z|x)] \le \log p(x)",
        source="Kingma & Welling (2014), equations 2 and 3",
        assumptions="",
        claim="The loss is minus the ELBO of its encoder, decoder and prior, in value and in gradient.",
        derivation="log p(x) minus the mean of log p(x, z) / q(z|x) is the KL divergence of q from the posterior.",
        trial=lambda precision: elbo(model, x, repeats=draws(400, precision, least=10)),
    )


def _check(name: str, function: Callable[[], Report | Evidence | Iterable[Evidence]]) -> Law:
    """The law that the evidence returned by a function holds; the docstring of the function is the claim."""

    def trial(_: float) -> Report:
        found = function()
        if isinstance(found, Report):
            return found
        report = Report.of([found] if isinstance(found, Evidence) else found if isinstance(found, Iterable) else [None])
        if not all(isinstance(e, Evidence) for e in report.evidence):
            raise ValueError(f"{function.__name__} must return a Report or Evidence, got {type(found).__name__}")
        return report

    text, _, rest = (inspect.getdoc(function) or f"{function.__name__} holds.").partition("\n")
    return Law(name, "", "", "", text, rest.strip(), trial)
