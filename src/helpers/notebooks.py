"""Execute the course's notebooks with papermill, strictly and several at once.

Each notebook has a process of its own, and the command a thread that waits for it. Papermill changes the working
directory of the process it runs in, so notebooks in threads would disturb each other; and where one process of a pool
dies, the pool is broken and with it the other notebooks.
"""

import difflib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread

import nbformat
import papermill
from filelock import FileLock
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"
KERNEL = "python3"
CELL_LIMIT = 3600  # seconds
MEMORY = 3e9  # bytes of the machine for each notebook: twice what training on drawn images was seen to take
PROFILES = ["smoke", "quick", "paper"]


class NotebookError(RuntimeError):
    """A notebook failed."""


class UnknownNotebook(ValueError):
    """No notebook, profile or parameter has that name."""


def unknown(what: str, name: str, known: list[str]) -> UnknownNotebook:
    """The error for an unknown `name`, with the names most like it, or all there are."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}"
    return UnknownNotebook(f"unknown {what} {name!r}: {hint}")


def find(names: list[str], directory: Path) -> list[Path]:
    """The notebooks of these numbers, names or paths, in order; all if none is named. Raises UnknownNotebook."""
    every = sorted(directory.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise UnknownNotebook(f"there are no notebooks in {directory}")
    known = {name: path for path in every for name in (path.name[:2], path.stem)}
    wanted = [Path(name).name.removesuffix(".ipynb") for name in names]
    for name in wanted:
        if name not in known:
            raise unknown("notebook", name, [path.stem for path in every])
    return sorted({known[name] for name in wanted}) or every


def parse(setting: str) -> tuple[str, bool | int | float | str | None]:
    """The name and value of "name=value"; the value is what papermill's `-p` makes of it. Raises UnknownNotebook."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise UnknownNotebook(f"unknown setting {setting!r}: write --set name=value")
    for kind in ({"True": True, "False": False, "None": None}.__getitem__, int, float):
        with suppress(KeyError, ValueError):
            return name, kind(text)
    return name, text


def check(path: Path, parameters: dict) -> None:
    """Raises UnknownNotebook for a parameter that the notebook does not have, NotebookError for a file that is none."""
    try:
        nbformat.validate(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # of whatever kind the file's wrong shape leads nbformat to
        reason = str(error).partition("\n")[0]
        raise NotebookError(f"{path} is torn or not a notebook ({reason}): restore the file from git") from None
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    known = list(papermill.inspect_notebook(notebook))
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of {path.stem}", name, known)


def execute(path: Path, target: Path, parameters: dict, limit: int = CELL_LIMIT) -> None:
    """Run one notebook top to bottom, in its folder and a fresh kernel, into `target`; each cell has `limit` seconds.

    Raises what `check` raises, and NotebookError if a cell fails; `target` then holds what was executed.
    """
    check(path, parameters)
    # Held while a kernel starts: it is told which ports are free, and dies if another takes one before it does.
    starting = FileLock(target.parent / ".starting")
    options = {"kernel_name": KERNEL, "language": "python", "cwd": path.parent, "progress_bar": False}
    options |= {"execution_timeout": limit, "on_notebook_start": lambda notebook: starting.release()}
    reason = ""
    try:
        with starting:
            executed = papermill.execute_notebook(path, target, parameters, **options)
        if not executed.metadata.papermill.exception:  # papermill lets sys.exit() pass for success
            return
    except PapermillExecutionError:
        pass  # the copy tells more
    except CellTimeoutError:
        reason = f"it took more than {limit} seconds; --cell-limit allows more"
    except DeadKernelError:
        reason = "its kernel died: out of memory, or ended by the code itself"
    except NoSuchKernel:
        fix = f"`{sys.executable} -m pip install ipykernel`"
        raise NotebookError(f"{path.name} cannot run: there is no kernel named {KERNEL}; {fix} installs it") from None
    except (OSError, RuntimeError) as error:  # a full disk, a kernel that does not start
        raise NotebookError(f"{path.name} failed: {error}") from None
    raise NotebookError(explain(path, target, reason))


def explain(path: Path, target: Path, reason: str) -> str:
    """Which cell failed, numbered as its brackets are, why, and where the partly executed copy is."""
    cells = nbformat.read(target, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    begun = [number for number, cell in enumerate(code) if cell.metadata.papermill.start_time]
    errors = [(number, out) for number in begun for out in code[number].outputs if out.output_type == "error"]
    number, error = errors[0] if errors else (begun[-1], None)
    line = code[number].source.strip().splitlines()[0][:80]
    reason = " ".join((reason or f"{error.ename}: {error.evalue}".removesuffix(": ")).split())[:300]
    return f"{path.name} failed in cell {number + 1}, `{line}`\n  {reason}\n  executed so far: {target}"


def execute_apart(path: Path, environment: dict, *rest) -> tuple[float, str]:
    """Call `execute(path, target, *rest)` in a process of its own: the seconds it took and, if it failed, why."""
    begun = time.perf_counter()
    order = json.dumps([path, EXECUTED / path.name, *rest], default=str)
    # The answer comes in a file, since a pipe stays open as long as any process that a cell leaves behind.
    with TemporaryFile() as answer:
        pipes = {"stdin": subprocess.PIPE, "stdout": answer, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([sys.executable, "-m", "helpers.notebooks", order], env=environment, **pipes) as process:
            code = process.wait()
        answer.seek(0)
        failure = answer.read().decode(errors="replace") or f"{path.name} failed: its process ended with code {code}"
    return time.perf_counter() - begun, failure if code else ""


def end_with_the_command() -> None:
    """End this process when the one at the other end of its stdin ends, however it does; the kernel does the same."""
    os.read(0, 1)
    os._exit(1)


def execute_all(names: list[str], profile: str, settings=(), jobs: int | None = None, limit: int = CELL_LIMIT) -> None:
    """Run notebooks, `jobs` at a time or as many as cores and memory allow, and print how long each took.

    Raises UnknownNotebook before any is run, NotebookError at the end if any failed.
    """
    paths = find(names, NOTEBOOKS)
    parameters = {"profile": profile} | dict(map(parse, settings))
    if parameters["profile"] not in PROFILES:
        raise unknown("profile", str(parameters["profile"]), PROFILES)
    for path in paths:
        with suppress(NotebookError):  # a torn file fails in its turn and stops no other
            check(path, parameters)
    for path in paths:
        clear(EXECUTED / path.name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    jobs = max(1, min(len(paths), jobs or min(cores, int(memory / MEMORY))))
    # torch takes a thread for every core, which is right for one notebook at a time only
    share = {"OMP_NUM_THREADS": str(max(1, cores // jobs))} if jobs > 1 else {}
    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(execute_apart, path, share | os.environ, parameters, limit) for path in paths]
        for path, run in zip(paths, runs, strict=True):
            seconds, failure = run.result()
            failures += [failure] if failure else []
            print(f"{'failed' if failure else 'ok':6}  {path.stem:30}  {seconds:7.1f} s", flush=True)
    if failures:
        raise NotebookError("\n".join(failures))


def clear(target: Path) -> None:
    """Delete an older copy, lest it be taken for this run's. Raises NotebookError where nothing can be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        target.unlink()
    except OSError as error:
        raise NotebookError(f"cannot write {target}: {error.strerror}") from None


if __name__ == "__main__":  # what execute_apart calls
    Thread(target=end_with_the_command, daemon=True).start()
    path, target, *order = json.loads(sys.argv[1])
    try:
        execute(Path(path), Path(target), *order)
    except (NotebookError, UnknownNotebook) as error:
        sys.stdout.buffer.write(str(error).encode())
        sys.exit(1)
