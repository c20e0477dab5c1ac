import ast
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import papermill
import pytest
from filelock import FileLock, Timeout
from papermill.cli import _resolve_type

from helpers import ROOT, notebooks
from helpers.notebooks import NotebookError, UnknownNotebook, check, execute, execute_all, find, parse

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
    seen = papermill.inspect_notebook(path)
    assert list(seen) == [s.targets[0].id for s in statements], "papermill overlooks a line with a second = in it"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_cells_are_short(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and not cell.source.startswith(("import", "from")):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 10, cell.source


def write(path, *sources, parameters='profile = "smoke"\nsteps = 4'):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=cells + [nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for notebooks instead of the course's; what is executed goes to `out` in it."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "EXECUTED", tmp_path / "out")
    return tmp_path


def printed_by(path):
    """The text of the last cell's output."""
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


# A kernel that runs holds this lock, and a zombie does not.
HOLD = "from filelock import FileLock\nlock = FileLock('running')\nlock.acquire()"


def assert_no_kernel_runs(folder):
    FileLock(folder / "running").acquire(timeout=300).lock.release()


def test_a_notebook_runs_in_its_folder_with_its_parameters(place):
    write(place / "01_a.ipynb", "import os", "print(profile, repr(steps), os.getcwd())")
    execute_all([], "quick", ["steps=0.5"])
    assert printed_by(place / "out" / "01_a.ipynb") == f"quick 0.5 {place}\n"


@pytest.mark.parametrize(
    "text", ["3", "-3", "1e-4", "0.5", "nan", "inf", "True", "False", "None", "true", "", "a=b", "1_000", " 7", "0x10"]
)
def test_values_are_read_as_papermill_reads_them(text):
    name, value = parse(f"steps={text}")
    expected = _resolve_type(text)
    assert (name, type(value), repr(value)) == ("steps", type(expected), repr(expected))


@pytest.mark.parametrize(
    ("names", "profile", "settings", "sentence"),
    [
        (["07"], "smoke", [], "unknown notebook '07': there are 01_a, 06_plain"),
        (["plian"], "smoke", [], "unknown notebook 'plian': did you mean 06_plain?"),
        ([], "smok", [], "unknown profile 'smok': did you mean smoke?"),
        ([], "smoke", ["profile=papr"], "unknown profile 'papr': did you mean paper?"),
        ([], "smoke", ["step=3"], "unknown parameter of 01_a 'step': did you mean steps?"),
        ([], "smoke", ["steps=3", "epochs=1"], "unknown parameter of 01_a 'epochs': did you mean steps?"),
        ([], "smoke", ["zz=3"], "unknown parameter of 01_a 'zz': there are profile, steps"),
        ([], "smoke", ["steps"], "unknown setting 'steps': write --set name=value"),
    ],
)
def test_unknown_names_are_told_with_their_like_before_anything_runs(place, names, profile, settings, sentence):
    for name in ("01_a", "06_plain"):
        write(place / f"{name}.ipynb")
    with pytest.raises(UnknownNotebook) as error:
        execute_all(names, profile, settings)
    assert str(error.value) == sentence
    assert not (place / "out").exists()


def test_a_notebook_without_the_parameter_is_not_run(tmp_path):
    path = write(tmp_path / "01_a.ipynb", parameters="steps = 4")
    with pytest.raises(UnknownNotebook, match=r"unknown parameter of 01_a 'profile': there are steps"):
        execute(path, tmp_path / "out.ipynb", {"profile": "smoke"})
    nbformat.write(nbformat.v4.new_notebook(), path)
    with pytest.raises(UnknownNotebook, match=r"unknown parameter of 01_a 'profile': there are none"):
        execute(path, tmp_path / "out.ipynb", {"profile": "smoke"})


def test_notebooks_are_found_by_number_name_or_path(tmp_path):
    with pytest.raises(UnknownNotebook, match="there are no notebooks in"):
        find([], tmp_path)
    paths = [write(tmp_path / name) for name in ("01_a.ipynb", "06_plain.ipynb")]
    write(tmp_path / "scratch.ipynb")
    assert find([], tmp_path) == find(["06", "01", "06_plain"], tmp_path) == paths
    for name in ("06", "06_plain", "06_plain.ipynb", str(paths[1])):
        assert find([name], tmp_path) == paths[1:]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("# comment\n1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo   three')", "ValueError: one two three"),
        ("import sys; sys.exit()", "SystemExit"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise SystemExit", "SystemExit"),
        ("import os; os._exit(0)", "its kernel died: out of memory, or ended by the code itself"),
        ("while True: pass", "it took more than 3 seconds; --cell-limit allows more"),
    ],
)
def test_a_failing_cell_is_told_and_what_was_executed_is_kept(tmp_path, source, reason):
    path = write(tmp_path / "01_a.ipynb", " ", f"{HOLD}\nprint('so far')", source, "print('never')")
    target = tmp_path / "out.ipynb"
    with pytest.raises(NotebookError) as error:
        execute(path, target, {"profile": "smoke"}, limit=3 if "while" in source else 60)
    first = source.splitlines()[0]
    # the parameters, those injected, the lock
    assert str(error.value) == f"01_a.ipynb failed in cell 4, `{first}`\n  {reason}\n  executed so far: {target}"
    cells = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    assert cells[3].outputs[0].text == "so far\n"
    assert not cells[5].outputs
    assert_no_kernel_runs(tmp_path)


def test_a_failing_notebook_does_not_stop_the_others(place, capsys):
    write(place / "01_a.ipynb", "1 / 0")
    (place / "02_b.ipynb").write_text('{"cells": [')
    write(place / "03_c.ipynb", "print('fine')")
    (place / "out").mkdir()
    (place / "out" / "02_b.ipynb").write_text("an older copy")
    with pytest.raises(NotebookError) as error:
        execute_all([], "smoke", jobs=1)
    lines = str(error.value).splitlines()
    assert lines[:2] == ["01_a.ipynb failed in cell 3, `1 / 0`", "  ZeroDivisionError: division by zero"]
    assert lines[3].startswith(f"{place / '02_b.ipynb'} is torn or not a notebook (") and len(lines) == 4
    assert "ZeroDivisionError" in (place / "out" / "01_a.ipynb").read_text()
    assert not (place / "out" / "02_b.ipynb").exists()
    assert printed_by(place / "out" / "03_c.ipynb") == "fine\n"
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in printed] == [["failed", "01_a"], ["failed", "02_b"], ["ok", "03_c"]]
    assert all(float(line[2]) > 0 and line[3] == "s" for line in printed)


MEET = """
import os, time
from pathlib import Path
Path(me).touch()
while not Path(other).exists():
    time.sleep(0.05)
print(os.environ.get("OMP_NUM_THREADS"))
"""


def test_two_at_once_share_the_cores(place, monkeypatch):
    """Each waits for the other, so one after the other they would never end."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    write(place / "01_a.ipynb", "me, other = 'a', 'b'" + MEET)
    write(place / "02_b.ipynb", "me, other = 'b', 'a'" + MEET)
    execute_all([], "smoke", jobs=2, limit=120)
    assert printed_by(place / "out" / "01_a.ipynb") == printed_by(place / "out" / "02_b.ipynb") == "3\n"


def test_kernels_start_one_after_another(tmp_path, monkeypatch):
    """Else one may take the ports that another was told are free."""

    def start(path, target, parameters, on_notebook_start, **_):
        other = FileLock(target.parent / ".starting", timeout=0)
        with pytest.raises(Timeout):
            other.acquire()
        on_notebook_start(notebook=None)
        with other:
            return nbformat.v4.new_notebook(metadata={"papermill": {"exception": None}})

    monkeypatch.setattr(papermill, "execute_notebook", start)
    execute(write(tmp_path / "01_a.ipynb"), tmp_path / "out.ipynb", {"profile": "smoke"})


def test_as_many_at_once_as_cores_and_memory_allow(place, monkeypatch):
    counts = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs):
            counts.append(jobs)
            super().__init__(jobs)

    monkeypatch.setattr(notebooks, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(notebooks, "execute_apart", lambda *_: (0.0, ""))
    for number in range(4):
        write(place / f"0{number}_a.ipynb")
    for cores, gigabytes, jobs in ((3, 100, None), (8, 100, None), (8, 7, None), (8, 1, None), (1, 1, 2), (1, 1, 9)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores), raising=False)
        sizes = {"SC_PHYS_PAGES": gigabytes * 1000, "SC_PAGE_SIZE": 1_000_000}
        monkeypatch.setattr(os, "sysconf", sizes.get)
        execute_all([], "smoke", jobs=jobs)
    assert counts == [3, 4, 2, 1, 2, 4]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_no_kernel(place, stop):
    write(place / "01_a.ipynb", f"{HOLD}\nopen('begun', 'w')\nwhile True: pass")
    here = f"from pathlib import Path; from helpers import notebooks; notebooks.NOTEBOOKS = Path({str(place)!r})"
    there = "notebooks.EXECUTED = notebooks.NOTEBOOKS / 'out'; from helpers.__main__ import main; main()"
    command = [sys.executable, "-c", f"{here}; {there}", "notebooks"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    while not (place / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    if stop == signal.SIGINT:  # as a terminal does it
        os.killpg(process.pid, stop)
    else:
        os.kill(process.pid, stop)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode in (128 + stop, -stop) and "Traceback" not in errors
    assert_no_kernel_runs(place)


def test_a_missing_kernel_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "KERNEL", "absent")
    with pytest.raises(NotebookError) as error:
        execute(write(tmp_path / "01_a.ipynb"), tmp_path / "out.ipynb", {"profile": "smoke"})
    install = f"`{sys.executable} -m pip install ipykernel` installs it"
    assert str(error.value) == f"01_a.ipynb cannot run: there is no kernel named absent; {install}"


def test_a_kernel_that_does_not_start_is_told(tmp_path, monkeypatch):
    specification = tmp_path / "kernels" / "broken" / "kernel.json"
    specification.parent.mkdir(parents=True)
    specification.write_text('{"argv": ["false"], "display_name": "broken", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(notebooks, "KERNEL", "broken")
    with pytest.raises(NotebookError, match=r"^01_a\.ipynb failed: Kernel died before replying to kernel_info$"):
        execute(write(tmp_path / "01_a.ipynb"), tmp_path / "out.ipynb", {"profile": "smoke"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"cells": 3}',
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"id": "a"}]}',
        "\xff",
    ],
)
def test_a_file_that_is_no_notebook_is_told_in_a_sentence(tmp_path, text, caplog):
    path = tmp_path / "01_a.ipynb"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(NotebookError) as error:
        check(path, {"profile": "smoke"})
    assert str(error.value).startswith(f"{path} is torn or not a notebook (") and "\n" not in str(error.value)
    assert str(error.value).endswith("): restore the file from git") and not caplog.records


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(place):
    write(place / "01_a.ipynb", "open('ran', 'w')")
    (place / "out").write_text("a file where the folder goes")
    with pytest.raises(NotebookError, match=r"^cannot write .*/out/01_a\.ipynb: [\w ]+$"):
        execute_all([], "smoke")
    (place / "out").unlink()
    (place / "out" / "01_a.ipynb").mkdir(parents=True)
    with pytest.raises(NotebookError, match=r"^cannot write .*/out/01_a\.ipynb: [\w ]+$"):
        execute_all([], "smoke")
    assert not (place / "ran").exists()


@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"], ids=["root", "notebooks"])
def test_papermill_itself_runs_a_notebook_from_anywhere(tmp_path, folder):
    path = write(tmp_path / "01_a.ipynb", "from helpers import ROOT", "print(profile, (ROOT / 'notebooks').is_dir())")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = nbformat.read(PATHS[0], as_version=4).metadata
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "profile", "quick"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert printed_by(tmp_path / "out.ipynb") == "quick True\n"
