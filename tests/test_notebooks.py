import ast

import nbformat
import pytest

from helpers import ROOT, notebooks
from helpers.notebooks import NotebookError, UnknownNotebook, execute, execute_all, find

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_has_a_head_and_one_cell_of_literal_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs in git: run nbstripout"
    assert "papermill" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    head = notebook.cells[0].source
    assert head.startswith(f"# {path.name[:2]}")
    assert all(word in head for word in ("What you will learn", "What it needs", "Time"))
    parameters = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1
    statements = ast.parse(parameters[0].source).body
    assert statements[0].targets[0].id == "profile"
    for statement in statements:
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_cells_are_short(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and not cell.source.startswith(("import", "from")):
            assert len(cell.source.splitlines()) <= 10, cell.source


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


def test_a_notebook_runs_in_its_folder_with_its_profile(tmp_path):
    path = write(tmp_path / "01_a.ipynb", "import os", "print(profile, os.getcwd())")
    assert execute(path, "quick", tmp_path / "out" / "01_a.ipynb") > 0
    executed = nbformat.read(tmp_path / "out" / "01_a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"quick {tmp_path}\n"


def test_a_failing_notebook_is_named_kept_and_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    write(tmp_path / "01_a.ipynb", "print('so far')", "1 / 0", "print('never')")
    write(tmp_path / "02_b.ipynb", "print('fine')")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "EXECUTED", tmp_path / "out")
    with pytest.raises(NotebookError, match=r"01_a\.ipynb failed in cell 4: ZeroDivisionError: division by zero"):
        execute_all([], "smoke")
    assert "so far" in (tmp_path / "out" / "01_a.ipynb").read_text()
    assert "fine" in (tmp_path / "out" / "02_b.ipynb").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["01_a.ipynb", "02_b.ipynb"]


def test_notebooks_are_found_by_number_or_name(tmp_path):
    paths = [write(tmp_path / name) for name in ("01_a.ipynb", "06_plain.ipynb")]
    write(tmp_path / "scratch.ipynb")
    assert find([], tmp_path) == paths
    assert find(["06"], tmp_path) == find(["06_plain"], tmp_path) == paths[1:]
    with pytest.raises(UnknownNotebook, match=r"no notebook 07 in .*: there are 01_a, 06_plain"):
        find(["07"], tmp_path)
