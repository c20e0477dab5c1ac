"""The files that say what to install, held together."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from helpers import ROOT
from helpers.plotting import last_rows
from helpers.results import stale
from helpers.runs import load_runs

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, list[tuple[Requirement, int]]]:
    """The pinned requirements of a file by package, each with its number of hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()):
        requirement, *hashes = entry.split(" \\\n")
        parsed = Requirement(requirement)
        found.setdefault(parsed.name, []).append((parsed, sum("--hash=sha256:" in line for line in hashes)))
    return found


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_is_exact_and_hashed_and_names_no_index(name):
    for entries in pins(name).values():
        for requirement, hashes in entries:
            assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
            assert hashes > 0 and requirement.url is None
    assert not re.search(r"^--|https?:", (ROOT / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-dev.txt", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_the_pins_satisfy_pyproject(name, wanted):
    pinned = pins(name)
    for requirement in map(Requirement, wanted):
        assert requirement.name in pinned, f"{requirement.name} is not in {name}: run `make pins`"
        for pin, _ in pinned[requirement.name]:
            version = next(iter(pin.specifier)).version
            assert Version(version) in requirement.specifier, f"{pin} is not {requirement}: run `make pins`"


def test_tests_run_with_the_courses_versions():
    course, dev = pins("requirements.txt"), pins("requirements-dev.txt")
    for name, entries in course.items():
        assert {pin.specifier for pin, _ in entries} == {pin.specifier for pin, _ in dev[name]}


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert Version(python.removeprefix("python=")) in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert next(d for d in environment["dependencies"] if isinstance(d, dict)) == {"pip": ["-r requirements.txt"]}


def test_the_readmes_tables_are_the_records():
    assert stale() == []


def test_the_readmes_sentences_are_the_records():
    """Which gaps of the suite `quick` are wide, and who is behind."""
    quick = last_rows(load_runs(ROOT / "data" / "runs", "quick").query("finished"))
    train, test = (quick.groupby("network")[error].mean() for error in ("train_error", "test_error"))
    assert train["plain-56"] - train["plain-20"] > max(10, train["resnet-56"] - train["resnet-20"])
    assert test["resnet-56"] > test["resnet-20"]


def test_the_readme_names_what_is_there():
    """Every file, folder and make target that it mentions in code type."""
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for mentioned in re.findall(r"`([\w./-]+)`", readme):
        if "/" in mentioned or Path(mentioned).suffix in (".py", ".md", ".txt", ".yml", ".toml", ".ipynb"):
            places = [ROOT / mentioned, ROOT / "src" / "helpers" / mentioned]
            assert mentioned.startswith(("build/", ".venv")) or any(p.exists() for p in places), mentioned
    for target in re.findall(r"make ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
