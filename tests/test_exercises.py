import re

import nbformat
import pytest

from helpers import ROOT, notebooks

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITHOUT = ("13_claims",)  # computes nothing that could be an exercise
CHECK = re.compile(r"checks\.(check_\w+)\((\w+)\)$")


def has(cell, tag):
    return cell.cell_type == "code" and tag in cell.metadata.get("tags", [])


def exercises(cells):
    """Stub, check and collapsed solution of each exercise."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    return [tuple(code[number : number + 3]) for number, cell in enumerate(code) if has(cell, "exercise")]


def printed(cell):
    return "".join(output.data["text/plain"] for output in cell.outputs if "data" in output)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_an_exercise_is_a_stub_its_check_and_a_collapsed_solution(path):
    found = exercises(nbformat.read(path, as_version=4).cells)
    if path.stem not in WITHOUT:
        assert len(found) >= (1 if path.stem == "00_start_here" else 2)
    for stub, check, solution in found:
        assert "NotImplementedError" in stub.source or re.search(r"^\w+ = None", stub.source, re.M), stub.source
        called = CHECK.search(check.source)
        assert called, check.source
        assert has(solution, "solution")
        assert solution.metadata.jupyter.source_hidden
        assert CHECK.search(solution.source).groups() == called.groups(), "the solution has the stub's name and check"


@pytest.mark.timeout(1800)
def test_every_solution_in_its_stubs_place_passes_its_check(tmp_path, monkeypatch):
    """Whole notebooks, with nothing else changed; the solution's own cell stays, and passes too."""
    for path in PATHS:
        notebook = nbformat.read(path, as_version=4)
        for stub, _, solution in exercises(notebook.cells):
            stub.source = CHECK.sub("", solution.source).rstrip()
        nbformat.write(notebook, tmp_path / path.name)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "EXECUTED", tmp_path / "out")
    notebooks.execute_all([], "smoke")
    for path in PATHS:
        for _, check, solution in exercises(nbformat.read(tmp_path / "out" / path.name, as_version=4).cells):
            assert printed(check).startswith("✓ Right"), check.source
            assert printed(solution).startswith("✓ Right"), solution.source
