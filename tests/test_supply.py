"""constraints.txt, the lock, pyproject.toml and what is installed agree; this needs no network."""

from __future__ import annotations

from importlib.metadata import Distribution

import pytest

import supply


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The files of the lock, in a folder where they may be broken."""
    for name in ("CONSTRAINTS", "BASE", "TORCH", "TORCH_CPU"):
        path = tmp_path / getattr(supply, name).name
        path.write_text(getattr(supply, name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(supply, name, path)
    return tmp_path


def test_the_lock_is_whole():
    assert list(supply.faults()) == []


def test_whatever_is_needed_and_installed_is_pinned():
    needed = supply.needed()
    assert {"torch", "numpy", "pytest", "markupsafe"} <= needed.keys()  # markupsafe: jinja2 needs it
    needed.pop("pip", None)  # an environment begins with the pip of its Python
    assert list(supply.unpinned(needed)) == []
    assert all(map(supply.license_of, needed.values()))


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("constraints.txt", "numpy==", "numpy>=", "constraints.txt does not pin numpy"),
        ("constraints.txt", "scipy==1", "scipy==0", "constraints.txt and lock/ differ in scipy 0"),
        ("constraints.txt", "\nrich==", "\n#rich==", "constraints.txt does not pin rich, which pyproject.toml needs"),
        ("constraints.txt", "typer==0.29", "typer==0.28", "to 0.28.2, but pyproject.toml needs typer>=0.29"),
        (
            "base.txt",
            "jinja2==3.1.6 \\\n    --hash=sha256:",
            "jinja2==3.1.6 \\\n    --hash=md5:",
            "no SHA-256 of jinja2",
        ),
        ("base.txt", "\nrich==", "\ntorch==2.13.0 \\\n    --hash=md5:0\nrich==", "both parts of the lock have torch"),
        ("torch-cpu.txt", "torch==2", "torch==1", "another version of torch than lock/torch.txt"),
    ],
)
def test_what_is_wrong_is_said(copied, name, old, new, fault):
    path = copied / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert any(fault in said for said in supply.faults())


def test_other_versions_and_strangers_are_said(tmp_path):
    def installed(name, version):
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
        return Distribution.at(tmp_path / name)

    found = {"numpy": installed("numpy", "1.0"), "stranger": installed("stranger", "2.0")}
    first, second = supply.unpinned(found)
    assert first.startswith("numpy 1.0 is installed, but constraints.txt pins ")
    assert second == "stranger 2.0 is installed, but constraints.txt does not pin it"
    assert not supply.license_of(found["numpy"])


@pytest.mark.parametrize(
    ("output", "said", "known"),
    [
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}',
            "looked up 1 versions and knows none",
            False,
        ),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}]}', "knows a 1: X-1", True),
        ('{"dependencies": [{"name": "a", "skip_reason": "no answer"}]}', "NOT LOOKED UP for 1 versions", False),
        ("", "NOT LOOKED UP: pip-audit failed (no network)", False),
    ],
)
def test_a_look_up_that_did_not_happen_is_not_called_clean(monkeypatch, output, said, known):
    ran = supply.subprocess.CompletedProcess([], 1, output, "Traceback\nno network\n")
    monkeypatch.setattr(supply.subprocess, "run", lambda *_, **__: ran)
    sentence, found = supply.advisories()
    assert said in sentence
    assert found is known
