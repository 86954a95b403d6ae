"""The project's own files: installation, versions that stand in two of them."""

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from setuptools import build_meta

ROOT = Path(__file__).parents[1]


def _found(pattern: str, file: str) -> tuple[str, ...]:
    match = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert match, f"{file} has no {pattern}"
    return match.groups()


def _pins(file: str) -> set[tuple[str, str]]:
    """Name, as constraints.txt spells it, and version of each pinned requirement."""
    pins = re.findall(r"^([\w.-]+)==([^;\s]+)", (ROOT / file).read_text(), re.M)
    return {(re.sub("[_.]", "-", name.lower()), version) for name, version in pins}


def test_makefile_and_package_take_the_same_versions_of_python():
    lowest, highest = _found(r"\((3, \d+)\) <= sys.version_info\[:2\] <= \((3, \d+)\)", "Makefile")
    above = f"3.{int(highest.split(', ')[1]) + 1}"
    required = (lowest.replace(", ", "."), above)
    assert _found(r'^requires-python = ">=(.*),<(.*)"', "pyproject.toml") == required


def test_the_image_is_installed_as_the_makefile_installs():
    """The same pip commands, on a supported version of Python, from files that are there."""
    text = (ROOT / "Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text().replace("--quiet --disable-pip-version-check ", "")
    installed = [words.split() for words in re.findall(r"pip install (.*?)(?: \\)?$", text, re.M)]
    assert len(installed) == 2
    for words in installed:
        assert " ".join(words[1:]) in makefile  # all but --no-cache-dir
    for name in re.search(r"^COPY (.*) \./$", text, re.M)[1].split():
        assert (ROOT / name).is_file()
    minor = int(re.search(r"^FROM python:3\.(\d+)-", text, re.M)[1])
    _, highest = _found(r"\((3, \d+)\) <= sys.version_info\[:2\] <= \((3, \d+)\)", "Makefile")
    assert minor <= int(highest.split(", ")[1])


def test_citation_names_the_version_of_the_package():
    cited = _found(r"^version: (.*)$", "CITATION.cff")
    assert _found(r'^version = "(.*)"$', "pyproject.toml") == cited


@pytest.mark.parametrize("file", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_constraints_hold_what_is_required(file):
    free = _pins(file) - _pins("constraints.txt")
    assert {name for name, _ in free} <= {"torch"}  # whose needs differ from machine to machine


def test_editable_installation_puts_this_folder_into_pythons_path(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *ROOT.glob("requirements*.txt")):
        shutil.copy(ROOT / name, source)
    monkeypatch.chdir(source)
    wheel = build_meta.build_editable(str(tmp_path))
    with zipfile.ZipFile(tmp_path / wheel) as packed:
        files = {os.path.basename(name): packed.read(name).decode() for name in packed.namelist()}
    (path,) = (text for name, text in files.items() if name.endswith(".pth"))
    assert Path(path.strip()) == source
    assert not [name for name in files if name.endswith(".py")]
    assert re.search(r"^Requires-Dist: mujoco==3\.3\.0$", files["METADATA"], re.M)
    assert re.search(r'^Requires-Dist: pytest==.*; extra == "dev"$', files["METADATA"], re.M)
    extras = {
        "h5py": "formats",
        "submitit": "slurm",
        "ray": "ray",
        "uvicorn": "explorer",
        "ale-py": "atari",
        "minigrid": "minigrid",
        "crafter": "crafter",
        "mani_skill": "maniskill",
    }
    for name, extra in extras.items():
        assert re.search(
            rf"^Requires-Dist: {name}==.*; .*extra == \"{extra}\"$", files["METADATA"], re.M
        )
