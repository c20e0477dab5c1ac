"""The files that say what to install, held together."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from helpers import ROOT, RUNS
from helpers.paper import residual_errors
from helpers.plotting import last_rows
from helpers.results import stale
from helpers.runs import load_runs

MODULES = ROOT / "src" / "helpers"
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
    """Which gaps of the suite `quick` are wide, and who is behind; of `paper`, each error and what the rule says."""
    quick = last_rows(load_runs(RUNS, "quick").query("finished"))
    train, test = (quick.groupby("network")[error].mean() for error in ("train_error", "test_error"))
    assert train["plain-56"] - train["plain-20"] > max(10, train["resnet-56"] - train["resnet-20"])
    assert test["resnet-56"] > test["resnet-20"]
    said = " ".join((ROOT / "README.md").read_text().split("<!-- /results -->")[1].split())
    full = last_rows(load_runs(RUNS, "paper").query("finished"))
    twenty = full[full.network == "resnet-20"].set_index("seed").test_error
    distance = residual_errors()[20] - twenty.loc[[0, 1, 2]].mean()
    assert all(f"{error:.2f}" in said for error in twenty) and f"{distance:.2f} points *below*" in said
    plain = full[full.network == "plain-20"].test_error
    assert all(f"{error:.2f}" in said for error in plain) and f"{9.70 - plain.mean():.2f} points below what" in said
    gap, error = plain.mean() - twenty.mean(), (plain.sem() ** 2 + twenty.sem() ** 2) ** 0.5
    assert f"{gap:.2f} points apart, with a standard error of {error:.2f}" in said
    assert "that order is *reproduced*" in said
    assert len(plain) == len(twenty) == 3 and gap > 2 * error and twenty.max() < plain.min()
    assert abs(distance) <= 0.5 and "that error is *reproduced*" in said
    both = last_rows(load_runs(RUNS, "agreement").query("finished"))
    assert all(f"{error:.2f}" in said for error in both[both.depth == 20].test_error)
    assert all(f"{error:.2f} % training error there" in said for error in both[both.depth == 56].train_error)
    low, high = (net.test_error for _, net in both[both.depth == 20].groupby("network"))
    apart, error = high.mean() - low.mean(), (low.sem() ** 2 + high.sem() ** 2) ** 0.5
    assert f"{apart:.2f} points apart, with a standard error of {error:.2f}. We had said" in said
    assert len(low) == len(high) == 3 and 0 < apart <= 0.5 and "*agree*" in said
    short = last_rows(load_runs(RUNS).query("finished and depth == 56 and suite in ['quick', 'starts']"))
    assert len(short) == 3 and all(f"{error:.2f}" in said for error in short.train_error)
    assert set(full.network) == {"plain-20", "resnet-20"}, "the sentences are older than the records"


@pytest.mark.parametrize(
    ("chapter", "quoted"),
    [
        ("06_plain_vs_residual", {"plain-56": "quick", "plain-56-float32": "agreement"}),
        ("08_layer_responses", {"plain-56-float32": "agreement"}),
        ("12_what_matters", {"plain-56": "quick", "resnet-56": "quick", "plain-20": "quick"}),
        ("12_what_matters", {"plain-56-identity": "starts", "plain-56-float32": "agreement"}),
        ("13_claims", {"plain-56": "quick", "plain-56-float32": "agreement"}),
    ],
)
def test_a_chapter_quotes_training_errors_as_recorded(chapter, quoted):
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", 4).cells
    said = " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())
    ends = last_rows(load_runs(RUNS).query("finished and seed == 0")).set_index(["suite", "network"]).train_error
    for network, suite in quoted.items():
        assert re.search(rf"\b{ends[suite, network]:.1f}( %| and)", said), f"{network} of {suite}"


PAGES = [path for part in ("", "benchmarks/", "docs/", "data/*/") for path in sorted(ROOT.glob(f"{part}*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_what_is_there(page):
    """Every file, folder and make target that it mentions in code type, and every link within the checkout."""
    text, makefile = page.read_text(), (ROOT / "Makefile").read_text()
    folders = [ROOT, MODULES, page.parent, RUNS / "paper" / "resnet-20" / "seed-0"]
    for mentioned in re.findall(r"`([\w./-]+)`", text):
        if "/" in mentioned or Path(mentioned).suffix in (".py", ".md", ".txt", ".yml", ".toml", ".ipynb", ".csv"):
            somewhere = any((folder / mentioned).exists() for folder in folders)
            assert mentioned.startswith(("build/", ".venv")) or somewhere, mentioned
    for link in re.findall(r"\]\(([^):#]+)", text):
        assert (page.parent / link).exists(), link
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_map_has_every_module_and_none_needs_one_below_it():
    rows = (ROOT / "README.md").read_text().split("## The map of the code")[1].split("\n## ")[0].splitlines()
    rows = [re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1]) for row in rows if row.startswith("| `")]
    there = [path.stem for path in MODULES.iterdir() if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)]
    assert sorted(name for row in rows for name in row) == sorted(there)
    above = set()
    for row in rows:
        above |= set(row)
        for name in row:
            files = [MODULES / f"{name}.py", *(MODULES / name).glob("*.py")]
            source = "\n".join(path.read_text() for path in files if path.exists())
            assert set(re.findall(r"from helpers\.(\w+)", source)) <= above, name


def test_make_clean_leaves_what_was_recorded(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("build/runs/x", "build/notebooks/y", ".venv/z"):
        (tmp_path / folder).mkdir(parents=True)
    for _ in range(2):
        subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
        assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
            "Makefile", "build", "build/runs", "build/runs/x",
        ]  # fmt: skip


def test_every_question_to_think_about_is_discussed():
    """As many answers as questions, under each chapter's name."""
    chapters = (ROOT / "docs" / "discussion.md").read_text().split("\n## ")[1:]
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for chapter, path in zip(chapters, notebooks, strict=True):
        text = "\n".join(
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
        )
        title = text.splitlines()[0].removeprefix("# ")
        assert title.startswith(chapter.splitlines()[0])
        questions = text.split("## Questions to think about")[1].split("\n## ")[0]
        assert len(re.findall(r"^\d\.", chapter, re.MULTILINE)) == len(re.findall(r"^\d\.", questions, re.MULTILINE))
