"""Execute the course's notebooks with papermill."""

import time
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"
CELL_LIMIT = 3600  # seconds
PROFILES = ("smoke", "quick", "paper")


class NotebookError(RuntimeError):
    """A notebook failed."""


class UnknownNotebook(ValueError):
    """No notebook or profile has that name."""


def find(numbers: list[str], directory: Path) -> list[Path]:
    """The notebooks whose names begin with these numbers, in order; all if none is named."""
    every = sorted(directory.glob("[0-9][0-9]_*.ipynb"))
    found = [path for path in every if not numbers or path.name[:2] in numbers or path.stem in numbers]
    missing = [n for n in numbers if not any(n in (path.name[:2], path.stem) for path in every)]
    if missing or not every:
        raise UnknownNotebook(
            f"no notebook {', '.join(missing)} in {directory}: there are {', '.join(p.stem for p in every)}"
        )
    return found


def execute(path: Path, profile: str, target: Path) -> float:
    """Run one notebook top to bottom in a fresh kernel, into `target`; the seconds it took.

    Raises NotebookError, with the failing cell's error; `target` then holds what was executed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        papermill.execute_notebook(
            path,
            target,
            {"profile": profile},
            kernel_name="python3",
            language="python",
            cwd=path.parent,
            progress_bar=False,
            execution_timeout=CELL_LIMIT,
        )
    except (DeadKernelError, CellTimeoutError) as error:
        raise NotebookError(f"{path} failed: {error}; see {target}") from None
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{path} failed in cell {error.exec_count}: {error.ename}: {error.evalue}; see {target}"
        ) from None
    return time.perf_counter() - begun


def execute_all(numbers: list[str], profile: str) -> None:
    """Run notebooks one after the other and print the time of each. Raises NotebookError at the end if any failed."""
    if profile not in PROFILES:
        raise UnknownNotebook(f"unknown profile {profile!r}: choose {', '.join(PROFILES)}")
    failures = []
    for path in find(numbers, NOTEBOOKS):
        try:
            seconds = execute(path, profile, EXECUTED / path.name)
            print(f"{path.name}  {seconds:.1f} s", flush=True)
        except NotebookError as error:
            failures.append(str(error))
            print(f"{path.name}  failed", flush=True)
    if failures:
        raise NotebookError("\n".join(failures))
