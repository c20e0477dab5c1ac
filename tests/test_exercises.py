import re

import nbformat
import pytest

from helpers import ROOT, checks, notebooks

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = ("00_start_here", "13_claims")  # with one exercise; the others have two or more
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
    assert len(found) >= (1 if path.stem in SHORT else 2)
    for stub, check, solution in found:
        assert "NotImplementedError" in stub.source or re.search(r"^\w+ = None", stub.source, re.M), stub.source
        called = CHECK.search(check.source)
        assert called, check.source
        assert has(solution, "solution")
        assert solution.metadata.jupyter.source_hidden
        assert CHECK.search(solution.source).groups() == called.groups(), "the solution has the stub's name and check"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_stub_left_as_it_is_is_unsolved(path):
    """With what the notebook's imports define, and nothing else of it."""
    cells = nbformat.read(path, as_version=4).cells
    names = {}
    for cell in cells:
        if cell.cell_type == "code" and re.match(r"import |from ", cell.source):
            exec(cell.source, names)
    for stub, check, _ in exercises(cells):
        exec(stub.source, names)
        function, answer = CHECK.search(check.source).groups()
        assert getattr(checks, function)(names[answer]).state == "unsolved"


def assert_clean(notebook):
    """Nothing on the error stream, and every picture in words too."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.get("name") == "stderr" for output in outputs)
    for picture in re.findall(r"<img [^>]*>", "".join(o.get("data", {}).get("text/html", "") for o in outputs)):
        assert re.search(r' alt="[^"]+"', picture), picture[:200]


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
        executed = nbformat.read(tmp_path / "out" / path.name, as_version=4)
        assert_clean(executed)
        for _, check, solution in exercises(executed.cells):
            assert printed(check).startswith("✓ Right"), check.source
            assert printed(solution).startswith("✓ Right"), solution.source
