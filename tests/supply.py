"""The lock: what is installed, by version and hash.

`python tests/supply.py lock` writes constraints.txt and lock/, `python tests/supply.py audit` checks them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS, BASE, TORCH, TORCH_CPU = (
    ROOT / name for name in ("constraints.txt", "lock/base.txt", "lock/torch.txt", "lock/torch-cpu.txt")
)
HEADS = {
    CONSTRAINTS: """\
# The versions that jensen is tested with: pip install -c constraints.txt -e .
# To change one, change it here and run `make lock`, which rewrites this file and lock/.
""",
    BASE: """\
# Written by `make lock` from constraints.txt: everything but torch, with the hashes of all files that PyPI has of each
# version. `make locked` installs it.
""",
    TORCH: """\
# Written by `make lock` from constraints.txt: torch and, on Linux, what its CUDA build needs, with the hashes of all
# files that PyPI has of each version. `make locked` installs it where the build of torch-cpu.txt is not found.
""",
}
UNSTATED = {"axe-playwright-python": "MIT, and MPL-2.0 for axe-core", "espeakng-loader": "GPL-3.0-or-later (espeak-ng)"}
WITH_TORCH = re.compile(r"(torch|triton|cuda-.*|nvidia-.*)")  # torch and what only its CUDA build needs


def entries(path: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """The requirements of a file, each with its hashes."""
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            yield Requirement(requirement), [h.strip() for h in hashes]


def pins(path: Path) -> dict[str, str]:
    """The version of each name in a file."""
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r, _ in entries(path)}


def write() -> None:
    """Resolves pyproject.toml for every platform under the constraints, and writes these and the lock."""
    command = (
        f"{sys.executable} -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11".split()
    )
    options = f"--generate-hashes --no-header --no-annotate --no-config --quiet -c {CONSTRAINTS.name}".split()
    found = subprocess.run([*command, *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    blocks = re.split(r"^(?=\w)", found, flags=re.MULTILINE)[1:]
    apart = [WITH_TORCH.fullmatch(re.match(r"[\w.-]+", block)[0]) for block in blocks]
    pinned = [re.match(r"[\w.-]+==[^ ]+", block)[0] + "\n" for block in blocks]
    files = {
        CONSTRAINTS: pinned,
        BASE: [block for block, out in zip(blocks, apart, strict=True) if not out],
        TORCH: [block for block, out in zip(blocks, apart, strict=True) if out],
    }
    for path, lines in files.items():
        path.write_text(HEADS[path] + "".join(lines), encoding="utf-8")


def faults() -> Iterator[str]:
    """What is wrong with the lock, without a network: a sentence each."""
    constraints, base, torch = pins(CONSTRAINTS), pins(BASE), pins(TORCH)
    if base | torch != constraints:
        yield f"constraints.txt and lock/ differ in {named(set(constraints.items()) ^ set((base | torch).items()))}"
    if both := base.keys() & torch.keys():
        yield f"both parts of the lock have {named(both)}"
    if pins(TORCH_CPU) != {"torch": f"{torch.get('torch')}+cpu"}:
        yield "lock/torch-cpu.txt has another version of torch than lock/torch.txt"
    for path in (CONSTRAINTS, BASE, TORCH, TORCH_CPU):
        for requirement, hashes in entries(path):
            if [s.operator for s in requirement.specifier] != ["=="]:
                yield f"{path.name} does not pin {requirement.name}"
            if path != CONSTRAINTS and not (hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes)):
                yield f"{path.name} has no SHA-256 of {requirement.name}"
    for requirement in declared():
        version = constraints.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"constraints.txt does not pin {requirement.name}, which pyproject.toml needs"
        elif version not in requirement.specifier:
            yield f"constraints.txt pins {requirement.name} to {version}, but pyproject.toml needs {requirement}"


def declared() -> Iterator[Requirement]:
    """What pyproject.toml needs: to run, for each extra, and to build."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, build = stated["project"], stated["build-system"]
    return map(
        Requirement, chain(project["dependencies"], *project["optional-dependencies"].values(), build["requires"])
    )


def needed() -> dict[str, Distribution]:
    """The installed distributions that pyproject.toml needs, directly or through others."""
    installed = {canonicalize_name(d.name): d for d in distributions()}
    found, waiting = {}, [(canonicalize_name(r.name), frozenset(r.extras)) for r in declared()]
    seen = set()
    while waiting:
        name, extras = entry = waiting.pop()
        if entry in seen or name not in installed:
            continue
        seen.add(entry)
        found[name] = installed[name]
        for requirement in map(Requirement, installed[name].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def unpinned(found: dict[str, Distribution]) -> Iterator[str]:
    """Which of the installed distributions have another version than the constraints, or none there."""
    constraints = pins(CONSTRAINTS)
    for name, distribution in found.items():
        if name not in constraints:
            yield f"{name} {distribution.version} is installed, but constraints.txt does not pin it"
        elif distribution.version.split("+")[0] != constraints[name]:
            yield f"{name} {distribution.version} is installed, but constraints.txt pins {constraints[name]}"


def license_of(distribution: Distribution) -> str:
    """The licence that a distribution states: an SPDX expression, else its classifiers, else its words; or none.

    The metadata of some state none, but what they hold does: UNSTATED has its licence.
    """
    stated = distribution.metadata
    classifiers = [c.split(" :: ")[-1] for c in stated.get_all("Classifier", []) if c.startswith("License")]
    words = (stated.get("License") or "").split("\n")[0]
    return stated.get("License-Expression") or ", ".join(classifiers) or words or UNSTATED.get(stated["Name"], "")


def advisories() -> tuple[str, bool]:
    """What pip-audit says of the locked versions, in a sentence, and whether it found an advisory."""
    command = f"{sys.executable} -m pip_audit --require-hashes --disable-pip --progress-spinner off -f json".split()
    ran = subprocess.run([*command, "-r", str(BASE), "-r", str(TORCH)], capture_output=True, text=True)
    try:
        found = json.loads(ran.stdout)["dependencies"]
    except ValueError:
        last = (ran.stderr.strip() or "it printed nothing").splitlines()[-1]
        return f"advisories: NOT LOOKED UP: pip-audit failed ({last})", False
    skipped = [entry["skip_reason"] for entry in found if "skip_reason" in entry]
    known = {f"{e['name']} {e['version']}: {v['id']}" for e in found for v in e.get("vulns", ())}
    asked = len(found) - len(skipped)
    missing = f"NOT LOOKED UP for {len(skipped)} versions (the first: {skipped[0]})" if skipped else ""
    said = f"pip-audit looked up {asked} versions and knows {named(known) or 'none of them'}" if asked else ""
    return f"advisories: {'; '.join(filter(None, (missing, said)))}", bool(known)


def named(things: Iterable) -> str:
    """Things in a sentence."""
    return ", ".join(sorted(" ".join(t) if isinstance(t, tuple) else t for t in things))


def audit() -> int:
    """Prints the licences, then what is wrong with the lock and what pip-audit knows; 1 if there is anything."""
    installed = {n: d for d in distributions() if (n := canonicalize_name(d.name)) != "jensen"}
    licences = {f"{name} {installed[name].version}": license_of(installed[name]) for name in sorted(installed)}
    wrong = [*faults(), *unpinned(installed), *(f"{name} states no licence" for name in licences if not licences[name])]
    agreed = f"constraints.txt, lock/, pyproject.toml and {len(installed)} installed distributions agree"
    sentence, known = advisories()
    lines = [*map(": ".join, licences.items()), *(f"lock: {w}" for w in wrong or [agreed]), sentence]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(wrong) or known)


if __name__ == "__main__":
    sys.exit({"lock": write, "audit": audit}[sys.argv[1]]())
