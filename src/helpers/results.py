"""The tables of what is recorded, and their one writer: README.md between two marks."""

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from helpers import ROOT, RUNS
from helpers.analysis import count_cost
from helpers.checkpoint import write
from helpers.paper import load_table, plain_errors
from helpers.records import MEND, METRICS, RunError, read_about, read_rows, run_folders, tabulate

README, FIGURES = ROOT / "README.md", ROOT / "figures"
BEGIN, END = "<!-- results: python -m helpers results -->", "<!-- /results -->"
NONE = "No run of the suite `paper` is finished yet, so there is nothing to set beside the paper's numbers."
NOTES = (
    "Paper: test error; mean ± standard deviation of five runs where it gives them; * read off Fig. 6, ± 0.05. Ours: "
    "test error at the last iteration, of all seeds recorded (notebook 13's verdicts take seeds 0 to 2). Best: the "
    "lowest of each run's evaluations: selected on the test set, it is too low, and no result."
)
PICTURES = ["curves", "errors", "responses"]
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"  # where a figure's file has its words


class ReadmeError(RuntimeError):
    """The README has no place for the tables."""


def load_ends(directory: Path = RUNS) -> pd.DataFrame:
    """A row for each finished run: the last one of `load_runs`, and four columns more.

    They are `best`, the lowest test error of all evaluations; `spec`; `processor`, the device in words; and `machine`,
    the GPU's name or "CPU".
    """
    ends = []
    for folder in run_folders(directory):
        about, rows = read_about(folder), read_rows(folder)
        if about["finished"] and not rows:
            raise RunError(f"{folder / METRICS} is missing or empty: {MEND}")
        if about["finished"]:
            table, kind = tabulate(folder.parts[-3], about, rows), about["path"]["device"]
            processor = " and ".join(sorted({stretch["device"] for stretch in about["stretches"]}))
            machine = processor if kind == "cuda" else kind.upper()
            more = {"spec": about["config"].spec, "processor": processor, "machine": machine}
            ends.append(table.iloc[-1].to_dict() | {"best": table.test_error.min()} | more)
    return pd.DataFrame(ends)


def spread(values: pd.Series) -> str:
    """Mean and, of several seeds, standard deviation."""
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def minutes(net: pd.DataFrame) -> str:
    """Of one run, in the mean over seeds, by the machine that they were on."""
    return ", ".join(f"{runs.seconds.mean() / 60:,.0f} ({machine})" for machine, runs in net.groupby("machine"))


def published() -> dict[str, str]:
    """The paper's test error by network: of Table 6, and for the plain nets what can be read off Fig. 6."""
    found = {f"plain-{depth}": f"{error:.2f}*" for depth, error in plain_errors().items()}
    for row in load_table("table6").query("method == 'ResNet'").itertuples():
        one = f"{row.test_error:.2f}"
        found[f"resnet-{row.layers}"] = one if pd.isna(row.mean) else f"{row.mean:.2f} ± {row.std:.2f}"
    return found


def paper_rows(ends: pd.DataFrame) -> list[dict[str, str]]:
    """A row for each network of these runs, of the suite `paper`: its errors beside those that the paper prints."""
    paper = published()
    return [
        {
            "net": name,
            "parameters": f"{count_cost(net.spec.iloc[0])['parameters']:,}",
            "paper": paper.get(name, "–"),
            "ours": spread(net.test_error),
            "seeds": f"{len(net)}",
            "best, selected on the test set": spread(net.best),
            "training error": spread(net.train_error),
            "minutes": minutes(net),
        }
        for (_, _, name), net in ends.groupby(["kind", "depth", "network"])
    ]


def other_rows(ends: pd.DataFrame) -> list[dict[str, str]]:
    """A row for each network of these runs, of other suites."""
    identity = ["suite", "kind", "depth", "network", "precision", "steps"]
    return [
        {
            "suite": suite,
            "network": name,
            "precision": precision,
            "steps": f"{steps:,}",
            "training error": spread(net.train_error),
            "test error": spread(net.test_error),
            "seeds": f"{len(net)}",
            "minutes": minutes(net),
        }
        for (suite, _, _, name, precision, steps), net in ends.groupby(identity)
    ]


def as_markdown(rows: list[dict[str, str]]) -> str:
    """A table; columns of numbers stand at the right, so that their digits can be compared."""
    numbers = [all(row[name][0].isdigit() for row in rows if row[name] != "–") for name in rows[0]]
    lines = [list(rows[0]), ["---:" if number else "---" for number in numbers]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *(list(row.values()) for row in rows)])


def pictures() -> list[str]:
    """The figures of suite `paper` that have been drawn, with the words they carry; the first sentence is visible."""
    found = []
    for path in (FIGURES / f"paper-{name}.svg" for name in PICTURES):
        if path.exists():
            words = ElementTree.parse(path).findtext(f".//{DESCRIPTION}")
            found += [f"![{words}](figures/{path.name})", f"*{words.partition('. ')[0]}.*"]
    return found


def tables(directory: Path = RUNS) -> str:
    """What is recorded, as Markdown: the suite `paper` beside the paper's numbers, then every other suite."""
    ends = load_ends(directory)
    if ends.empty:
        return NONE
    full, others = ends[ends.suite == "paper"], ends[ends.suite != "paper"]
    parts = [as_markdown(paper_rows(full)), NOTES, *pictures()] if len(full) else [NONE]
    if len(others):
        parts.append(as_markdown(other_rows(others)))
    if processors := sorted(ends.processor[ends.machine == "CPU"].unique()):
        parts.append(f"CPU: {'; '.join(processors)}.")
    return "\n\n".join(parts)


def renewed(readme: Path = README, directory: Path = RUNS) -> str:
    """The README's text with the tables of what is recorded. Raises ReadmeError if it lacks the two marks."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ReadmeError(f"{readme} has no place for the tables: put the lines {BEGIN} and {END} where they belong")
    return f"{before}{BEGIN}\n\n{tables(directory)}\n\n{END}{after}"


def write_tables(readme: Path = README, directory: Path = RUNS) -> None:
    write(readme, renewed(readme, directory).encode())


def stale(readme: Path = README, directory: Path = RUNS) -> list[str]:
    """A sentence if the README's tables are other than those of what is recorded."""
    same = readme.read_text(encoding="utf-8") == renewed(readme, directory)
    return [] if same else [f"the tables in {readme} are stale: .venv/bin/python -m helpers results writes them anew"]
