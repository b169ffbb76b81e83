"""The laws of `jensen check` on the installed peers: which hold and which fail, with the evidence.

Each peer's objects go through an adapter of a few lines (`peers/*_laws.py`) into the same user-facing checks that
jensen's own laws run. Nothing is timed. A claim that fails is a difference between what an object does and what
the check claims, for this version and this adapter: read the adapter before calling it a defect.

    python benchmarks/peer_laws.py --json laws.json
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from typer import Option

from jensen.check import Evidence
from machine import table, write_json

PEERS = {  # adapters in `peers`, and the package they adapt
    "azula": "azula",
    "diffusers": "diffusers",
    "ddpm_pytorch": "denoising-diffusion-pytorch",
    "pyro": "pyro-ppl",
    "pythae": "pythae",
    "torchgan": "torchgan",
}


@dataclass(frozen=True)
class Finding:
    """One object of one library.

    Attributes:
        library, version: name and version of the library.
        what: the object and its options.
        evidence: all evidence of the check.
    """

    library: str
    version: str
    what: str
    evidence: tuple[Evidence, ...]

    @property
    def failed(self) -> tuple[Evidence, ...]:
        return tuple(e for e in self.evidence if not e.holds)


def findings(peer: str) -> Iterator[Finding]:
    """Check every object of one peer's adapters; nothing if the peer is not installed."""
    try:
        adapters = import_module(f"peers.{peer}_laws")
    except ModuleNotFoundError as error:
        print(f"{PEERS[peer]} is skipped: {error}", file=sys.stderr)
        return
    for what, report in adapters.reports():
        yield Finding(PEERS[peer], version(PEERS[peer]), what, report.evidence)


def rows(found: Finding) -> Iterator[tuple[str, ...]]:
    """One row if all claims hold, else one for each claim that fails."""
    head = (f"{found.library} {found.version}", found.what)
    if not found.failed:
        yield (*head, f"{len(found.evidence)} claims", "hold")
    for e in found.failed:
        yield (*head, e.claim, f"fails: {e.measured:.4g}, expected {e.relation} {e.expected:.4g} ± {e.tolerance:.2g}")


def main(
    peer: Annotated[list[str] | None, Option(help="Only these peers.")] = None,
    json_file: Annotated[Path | None, Option("--json", help="Write all evidence to this file too.")] = None,
) -> None:
    """The laws on the peers, as a table."""
    for name in peer or ():
        if name not in PEERS:
            raise typer.BadParameter(f"peer must be one of {', '.join(PEERS)}, got {name!r}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = [f for name in peer or PEERS for f in findings(name)]
    print(table(["version", "what", "claim", "evidence"], [row for f in found for row in rows(f)]))
    entries = [
        {"library": f.library, "version": f.version, "what": f.what, "evidence": [e.as_dict() for e in f.evidence]}
        for f in found
    ]
    write_json(json_file, {"torch": torch.__version__, "findings": entries})


if __name__ == "__main__":
    typer.run(main)
