import statistics

import pytest
from recorded import CPU, GPU, write_run

from helpers import results
from helpers.figures import draw
from helpers.records import RunError
from helpers.results import (
    BEGIN,
    END,
    ReadmeError,
    as_markdown,
    load_ends,
    other_rows,
    paper_rows,
    renewed,
    stale,
    tables,
)

TABLE_6 = {20: "8.75", 32: "7.51", 44: "7.17", 56: "6.97", 110: "6.61 ± 0.16", 1202: "7.93"}


def cells(text, first):
    """The cells of the only row that begins with this one, by the names of its columns."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    found = [number for number, line in enumerate(lines) if line[0] == first]
    assert len(found) == 1
    head = max(number for number in range(found[0]) if lines[number + 1][0] == "---")
    return dict(zip(lines[head], lines[found[0]], strict=True))


def test_a_net_of_the_suite_paper_stands_beside_the_papers_with_all_its_seeds(tmp_path):
    last = [6.5, 6.9, 6.6]
    for seed, error in enumerate(last):
        write_run(
            tmp_path, "paper", "resnet-110", seed, GPU, ["NVIDIA H200"], errors=(error - 0.25, error), steps=64_000
        )
    row = cells(tables(tmp_path), "resnet-110")
    assert (row["parameters"], row["paper"]) == ("1,727,962", TABLE_6[110])
    mean, std = statistics.mean(last), statistics.stdev(last)
    assert row["ours"] == f"{mean:.2f} ± {std:.2f}" and row["seeds"] == "3"
    assert row["best, selected on the test set"] == f"{mean - 0.25:.2f} ± {std:.2f}"
    assert row["training error"] == f"{mean - 2:.2f} ± {std:.2f}"
    assert row["minutes"] == "20 (NVIDIA H200)"


def test_the_last_iteration_counts_and_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path, "paper", "plain-20", errors=(9.0, 9.8))
    write_run(tmp_path, "paper", "plain-110", errors=(70.0, 65.0))
    text = tables(tmp_path)
    row = cells(text, "plain-20")
    assert (row["paper"], row["ours"], row["best, selected on the test set"]) == ("9.70*", "9.80", "9.00")
    assert cells(text, "plain-110")["paper"] == "–", "the paper has no such point"


def test_every_residual_net_of_table_6_is_found(tmp_path):
    for layers in TABLE_6:
        write_run(tmp_path, "paper", f"resnet-{layers}")
    text = tables(tmp_path)
    assert {layers: cells(text, f"resnet-{layers}")["paper"] for layers in TABLE_6} == TABLE_6


def test_minutes_of_a_cpu_are_not_those_of_a_gpu(tmp_path):
    write_run(tmp_path, "quick", "plain-20", 0, CPU, ["Some CPU, 2 cores"])
    write_run(tmp_path, "quick", "plain-20", 1, GPU, ["NVIDIA A100"], rows=((2000, 30), (4000, 60)))
    write_run(tmp_path, "quick", "plain-20", 2, GPU, ["NVIDIA A100"], rows=((2000, 90), (4000, 180)))
    text = tables(tmp_path)
    assert cells(text, "quick")["minutes"] == "20 (CPU), 2 (NVIDIA A100)"
    assert "\n\nCPU: Some CPU, 2 cores." in text
    write_run(tmp_path, "quick", "plain-20", 0, GPU, ["NVIDIA H200", "NVIDIA A100"])
    assert "20 (NVIDIA A100 and NVIDIA H200)" in cells(tables(tmp_path), "quick")["minutes"]


def test_a_finished_run_without_its_rows_is_told_in_a_sentence(tmp_path):
    write_run(tmp_path, "quick", "plain-20")
    (tmp_path / "quick" / "plain-20" / "seed-0" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="is missing or empty: put a whole copy of it back"):
        load_ends(tmp_path)


def test_until_a_run_of_the_paper_is_finished_it_says_so(tmp_path):
    assert tables(tmp_path) == results.NONE
    write_run(tmp_path, "paper", "resnet-20", finished=False)
    assert tables(tmp_path) == results.NONE
    write_run(tmp_path, "quick", "resnet-20")
    assert tables(tmp_path).startswith(results.NONE) and "| quick | resnet-20 |" in tables(tmp_path)
    write_run(tmp_path, "paper", "resnet-20")
    assert results.NONE not in tables(tmp_path)


def test_nets_of_other_suites_are_rows_apart_by_precision_and_schedule(tmp_path):
    write_run(tmp_path, "own", "resnet-20")
    write_run(tmp_path, "own", "resnet-20", 1, {**CPU, "precision": "float32"})
    write_run(tmp_path, "own", "resnet-20", 2, steps=2000)
    write_run(tmp_path, "paper", "resnet-20")
    ends = load_ends(tmp_path)
    rows = other_rows(ends[ends.suite == "own"])
    found = {(row["precision"], row["steps"], row["seeds"]) for row in rows}
    assert found == {("bfloat16", "4,000", "1"), ("float32", "4,000", "1"), ("bfloat16", "2,000", "1")}
    assert [row["net"] for row in paper_rows(ends[ends.suite == "paper"])] == ["resnet-20"]


def test_pictures_are_shown_once_they_are_drawn_and_say_what_they_show(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    write_run(tmp_path, "paper", "resnet-20", steps=64_000)
    assert "![" not in tables(tmp_path)
    [words] = draw(["errors"], tmp_path, tmp_path).values()
    text = tables(tmp_path)
    assert f"\n\n![{words}](figures/paper-errors.svg)\n\n*Test errors beside" in text and "paper-curves" not in text
    caption = text.split("\n\n*")[1].split("\n\n")[0]
    assert caption.endswith("; the axis begins at 5 %.*"), "the first sentence, whole"


def test_columns_of_numbers_stand_at_the_right():
    rows = [
        {"net": "plain-20", "paper": "9.70*", "ours": "–"},
        {"net": "20-plain", "paper": "–", "ours": "8.34 ± 0.19"},
    ]
    assert as_markdown(rows).splitlines()[1] == "| --- | ---: | ---: |"


@pytest.fixture
def readme(tmp_path):
    write_run(tmp_path / "runs", "quick", "plain-20")
    path = tmp_path / "README.md"
    path.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    return path


def test_the_tables_are_written_between_the_marks_and_nothing_else_is(readme, tmp_path):
    runs = tmp_path / "runs"
    assert len(stale(readme, runs)) == 1
    results.write_tables(readme, runs)
    assert stale(readme, runs) == []
    text = readme.read_text()
    assert text == f"# Before\n\n{BEGIN}\n\n{tables(runs)}\n\n{END}\n\nAfter.\n"
    results.write_tables(readme, runs)
    assert readme.read_text() == text
    write_run(runs, "quick", "plain-20", 1)
    assert len(stale(readme, runs)) == 1, "a run was added"
    readme.write_text(text.replace(END, ""))
    with pytest.raises(ReadmeError, match="no place for the tables: put the lines <!-- results"):
        renewed(readme, runs)


def test_the_command_writes_and_checks(call, monkeypatch, readme, tmp_path):
    runs = tmp_path / "runs"
    defaults = {"stale": lambda: stale(readme, runs), "tables": lambda directory=runs: tables(directory)}
    write = results.write_tables
    for name, function in (defaults | {"write_tables": lambda: write(readme, runs)}).items():
        monkeypatch.setattr(results, name, function)
    code, printed = call("results", "--check")
    stale_tables = f"the tables in {readme} are stale: .venv/bin/python -m helpers results writes them anew\n"
    assert (code, printed.out) == (1, stale_tables)
    code, printed = call("results")
    assert code == 0 and "| quick | plain-20 |" in printed.out and "| quick | plain-20 |" in readme.read_text()
    code, printed = call("results", "--check")
    assert (code, printed.out) == (0, "the tables are those of what is recorded\n")
