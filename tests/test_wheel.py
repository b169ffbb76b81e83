"""The wheel holds the package and nothing else, and the source archive builds the same wheel."""

from __future__ import annotations

import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel of the tree, the source archive of the tree, and the wheel of that archive."""
    place = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel, source = place / build.build_wheel(str(place)), place / build.build_sdist(str(place))
        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        patch.chdir(place / source.name.removesuffix(".tar.gz"))
        (place / "again").mkdir()
        again = place / "again" / build.build_wheel(str(place / "again"))
    return wheel, source, again


def package() -> set[str]:
    """The files of the package, as a wheel names them."""
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT / "src").as_posix() for path in files if path.suffix != ".pyc"}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package()
    kinds = {".py", ".typed", ".html", ".css", ".js", ".json", ".jsonl", ".safetensors"}
    assert {Path(name).suffix for name in names} <= kinds
    for needed in ("jensen/py.typed", "jensen/shipped/captcha-reader/model.safetensors"):
        assert needed in names
    assert any(name.startswith("jensen/report/") and name.endswith(".html") for name in names)


def test_the_metadata_names_command_licence_and_python(built):
    with zipfile.ZipFile(built[0]) as wheel:
        files = {Path(name).name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" in name}
    assert "LICENSE" in files
    assert b"jensen = jensen.cli.main:entry" in files["entry_points.txt"]
    stated = message_from_bytes(files["METADATA"])
    assert stated["Requires-Python"] == ">=3.11"
    assert not [line for line in stated.get_all("Requires-Dist") if "pytest" in line and "extra == 'dev'" not in line]


def test_the_source_archive_builds_the_same_wheel(built):
    wheel, source, again = built
    assert again.read_bytes() == wheel.read_bytes()
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    beside = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"}
    assert names == beside | {f"src/{name}" for name in package()}
