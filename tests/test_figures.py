import matplotlib.pyplot as plt
import pandas as pd
import pytest
from recorded import CPU, write_run

from helpers import figures
from helpers.experiments import UnknownName
from helpers.figures import (
    FIGURES,
    describe_beside_paper,
    draw,
    drawings,
    identify,
    plot_beside_paper,
    plot_both_orders,
    plot_plain_and_residual,
    render,
    stale,
)
from helpers.plotting import NOTHING
from helpers.runs import RunError, load_runs, load_series

FLOAT32 = {**CPU, "precision": "float32"}
QUICK = [("quick", "plain-20", 0), ("quick", "resnet-20", 0), ("quick", "plain-56", 0), ("quick", "resnet-56", 0)]


@pytest.fixture
def runs_in(tmp_path):
    for run in QUICK:
        write_run(tmp_path / "runs", *run)
    return tmp_path / "runs"


def digests(directory):
    return {name: drawing.digest for name, drawing in drawings([], directory).items()}


def test_the_committed_figures_are_those_of_what_is_recorded():
    assert stale([]) == []


def test_two_drawings_have_the_same_bytes(runs_in):
    for name, drawing in drawings([], runs_in).items():
        first = render(drawing)
        with plt.rc_context({"font.size": 20, "axes.linewidth": 5}):
            assert render(drawing) == first, name
        for suffix, data in first.items():
            assert drawing.digest.encode() in data
            assert b"matplotlib.org" not in data.split(b"xmlns", 1)[0] and b"<dc:date>" not in data, suffix
    assert not plt.get_fignums()


def test_a_digest_changes_with_the_numbers_drawn_and_with_nothing_else(runs_in):
    before = digests(runs_in)
    assert set(before) == {"quick-curves", "quick-errors", "quick-responses"}
    metrics = runs_in / "quick" / "resnet-56" / "seed-0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"seconds": 600', '"seconds": 601').replace('"lr": 0.1', '"lr": 1'))
    write_run(runs_in, "quick", "resnet-56", 1, finished=False)
    write_run(runs_in, "elsewhere", "resnet-20-B", 0)
    assert digests(runs_in) == before
    first, last = metrics.read_text().splitlines()
    metrics.write_text(first.replace('"test_error": 12.0', '"test_error": 12.01') + f"\n{last}\n")
    assert {name for name, digest in digests(runs_in).items() if digest != before[name]} == {"quick-curves"}
    responses = runs_in / "quick" / "plain-20" / "seed-0" / "responses.csv"
    responses.write_text(responses.read_text().replace("1.01\n", "1.02\n"))
    metrics.write_text(f"{first}\n{last}\n".replace('"train_error": 8.0', '"train_error": 8.5'))
    assert all(digest != before[name] for name, digest in digests(runs_in).items())


def test_check_names_what_is_missing_stale_and_no_longer_recorded(runs_in, tmp_path):
    folder = tmp_path / "figures"
    assert len(stale([], runs_in, folder)) == 6
    words = draw([], runs_in, folder)
    assert stale([], runs_in, folder) == []
    names = [f"quick-{name}" for name in ("curves", "errors", "responses")]
    assert sorted(p.name for p in folder.iterdir()) == [f"{n}.{s}" for n in names for s in ("png", "svg")]
    assert "20 layers 8.00 % training, 10.00 % test" in words[folder / "quick-curves"]
    write_run(runs_in, "quick", "resnet-20", errors=(12.0, 9.0))
    (folder / "quick-errors.svg").unlink()
    (folder / "old-curves.png").write_bytes(b"")
    assert stale([], runs_in, folder) == [
        f"{folder / 'quick-curves.svg'} is stale: what is recorded has changed",
        f"{folder / 'quick-curves.png'} is stale: what is recorded has changed",
        f"{folder / 'quick-errors.svg'} is missing",
        f"{folder / 'quick-errors.png'} is stale: what is recorded has changed",
        f"{folder / 'old-curves.png'} is of nothing that is recorded",
    ]
    assert stale(["responses"], runs_in, folder) == []
    draw(["curves"], runs_in, folder)
    assert stale(["curves"], runs_in, folder) == [] and len(stale(["errors"], runs_in, folder)) == 2


def test_what_cannot_be_drawn_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UnknownName, match="unknown figure 'curvs': did you mean curves"):
        drawings(["curvs"])
    with pytest.raises(RunError, match=r"no finished run is in .*: record some first"):
        drawings([], tmp_path)
    folder = write_run(tmp_path, "quick", "plain-20", 0, finished=False)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="no finished run"):
        drawings([], tmp_path)
    write_run(tmp_path, "quick", "plain-20", 0)
    with pytest.raises(RunError, match="has the runs that curves would compare"):
        drawings(["curves"], tmp_path)


def test_the_suite_paper_has_a_panel_for_the_very_deep_nets_and_titles_with_seeds(tmp_path):
    for name, seeds in (("plain-20", 5), ("plain-110", 1), ("resnet-20", 5), ("resnet-110", 2), ("resnet-1202", 1)):
        for seed in range(seeds):
            error = 61.0 if name == "plain-110" else 8.0 + seed / 10
            write_run(tmp_path, "paper", name, seed, errors=(error, error), steps=64_000)
    found = drawings([], tmp_path)
    assert set(found) == {"paper-curves", "paper-errors", "paper-responses"}
    figure = plot_plain_and_residual(found["paper-curves"].table)
    assert [ax.get_title() for ax in figure.axes] == [
        "plain nets\n1 to 5 seeds",
        "residual nets\n2 to 5 seeds",
        "very deep nets\n1 to 2 seeds",
    ]
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["110 layers: above, 59 %", "", ""]
    assert [ax.get_ylim() for ax in figure.axes] == [(0, 20)] * 3
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == ["20 layers", "110 layers", "1202 layers", "training", "test"]
    assert set(found["paper-responses"].table.network) == {"plain-20", "resnet-20", "resnet-110"}
    plt.close(figure)


def beside_paper(runs_in, errors, suite="paper", **changes):
    """The figure's axes and the words, of runs with these last errors by network, a seed each."""
    for name, ends in errors.items():
        for seed, end in enumerate(ends):
            write_run(runs_in, suite, name, seed, errors=(end + 1, end), **{"steps": 64_000, **changes})
    runs = load_runs(runs_in)
    return plot_beside_paper(runs).axes[0], describe_beside_paper(runs)


def marks(ax, filled):
    """Height of each open or filled mark, from left to right."""
    lines = [line for line in ax.lines if line.get_marker() in "oD" and (line.get_mfc() != "none") == filled]
    points = sorted(point for line in lines for point in line.get_xydata().tolist())
    return [pytest.approx(y) for _, y in points]


def test_our_seeds_stand_beside_all_of_the_papers_errors_and_what_the_rule_allows(tmp_path):
    fifth = {"resnet-20": [8.0, 8.5, 8.4, 99.0, 99.0], "plain-20": [9.5], "resnet-110": [7.2, 7.1, 7.3]}
    ax, words = beside_paper(tmp_path, fifth)
    assert marks(ax, filled=False) == [8.0, 9.5, 8.5, 8.4, 7.2, 7.1, 7.3], "seeds 3 and 4 decide nothing"
    assert marks(ax, filled=True) == [8.3, 7.2]
    dashes = {line.get_label(): list(line.get_ydata()) for line in ax.lines if line.get_marker() == "_"}
    assert dashes["the paper's, residual"] == [8.75, 7.51, 7.17, 6.97, 6.61, 7.93]
    assert dashes["the paper's, plain"] == [9.70, 10.11, 11.48, 13.26]
    assert [(band.get_y(), band.get_height()) for band in ax.patches[:2]] == [(8.25, 1), (pytest.approx(7.01), 1)]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["20", "32", "44", "56", "110", "1202"]
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["1 of 3"]
    assert "20 layers, paper 8.75 %, ours 8.00, 8.50, 8.40 %, mean 8.30 %, within half a point; 32 layers" in words
    assert "32 layers, paper 7.51 %, ours none yet; 44" in words
    assert "110 layers, paper 6.61 %, ours 7.20, 7.10, 7.30 %, mean 7.20 %, not within half a point" in words
    assert "Plain nets: 20 layers, paper 9.70 %, ours 9.50 %, not yet decided with 1 of 3 seeds; 32 layers" in words
    assert words.endswith(
        "Drawn from: suite paper · 64,000 steps · seed 0, 1, 2 (some nets fewer) · cifar10 · bfloat16."
    )
    [drawing] = drawings(["errors"], tmp_path).values()
    assert drawing.words == words and len(drawing.table) == 7


def test_an_error_above_the_scale_is_named(tmp_path):
    ax, words = beside_paper(tmp_path, {"plain-110": [61.0, 62.0, 63.0], "plain-56": [40.0, 41.0]})
    assert [text.get_text() for text in ax.texts] == ["2 of 3\nabove, 40 %", "above, 62 %"]
    assert all(text.get_position()[1] < ax.get_ylim()[1] for text in ax.texts)
    assert "110 layers, not among its curves, ours 61.00, 62.00, 63.00 %, mean 62.00 %." in words


@pytest.mark.parametrize("changes", [{"suite": "own"}, {"steps": 4000}, {"finished": False}])
def test_the_paper_stands_alone_beside_runs_that_decide_nothing(tmp_path, changes):
    ax, words = beside_paper(tmp_path, {"resnet-20": [8.0]}, **changes)
    assert marks(ax, filled=False) == marks(ax, filled=True) == [] and ax.axison and len(ax.patches) == 6
    assert "20 layers, paper 8.75 %, ours none yet" in words and words.endswith(f"13.26 %, ours none yet. {NOTHING}")
    empty = pd.DataFrame()
    assert describe_beside_paper(empty) == words and plot_beside_paper(empty).get_supxlabel() == NOTHING


def test_precisions_and_shortcuts_stand_beside_the_same_nets_of_other_suites(runs_in):
    write_run(runs_in, "agreement", "resnet-20-float32", 0, FLOAT32)
    write_run(runs_in, "agreement", "plain-56-float32", 0, FLOAT32, steps=2000)
    write_run(runs_in, "paper", "resnet-20", 0)
    write_run(runs_in, "paper", "resnet-20", 1, FLOAT32)
    for option in "BC":
        write_run(runs_in, "options", f"resnet-20-{option}", 0)
    found = drawings([], runs_in)
    assert set(found) - {"quick-curves", "quick-errors", "quick-responses"} == {
        "agreement-precision",
        "options-shortcuts",
    }
    table = found["agreement-precision"].table
    assert set(table.suite + " " + table.network) == {"quick resnet-20", "agreement resnet-20-float32"}
    table = found["options-shortcuts"].table
    assert set(table.suite + table.shortcut + table.precision) == {
        "paperAbfloat16",
        "optionsBbfloat16",
        "optionsCbfloat16",
    }
    for name in ("agreement-precision", "options-shortcuts"):
        assert render(found[name])
    write_run(runs_in, "agreement", "resnet-20", 0)
    table = drawings(["precision"], runs_in)["agreement-precision"].table
    assert set(table.suite + table.precision) == {"agreementbfloat16", "agreementfloat32"}, "its own before another's"


def test_networks_that_would_look_alike_are_not_drawn(runs_in):
    write_run(runs_in, "quick", "resnet-20-B", 0)
    with pytest.raises(RunError, match="would compare"):
        drawings(["curves"], runs_in)


def test_responses_know_their_runs(runs_in):
    runs, series = load_runs(runs_in), load_series("responses.csv", runs_in)
    table = identify(series, runs)
    assert len(table) == len(series) and set(table[table.network == "plain-56"].depth) == {56}
    assert [len(ax.lines) for ax in plot_both_orders(table).axes] == [4, 4]
    assert identify(pd.DataFrame(), runs).empty and identify(series, pd.DataFrame()).empty
    plt.close("all")


def test_the_command_draws_and_checks(call, monkeypatch, runs_in, tmp_path):
    code, printed = call("figures", "--check")
    assert (code, printed.out) == (0, "the figures are those of what is recorded\n")
    assert set(FIGURES) == {"curves", "errors", "responses", "shortcuts", "precision"}
    code, printed = call("figures", "quick-curve")
    assert code == 2 and printed.err == "error: unknown figure 'quick-curve': did you mean curves?\n"
    monkeypatch.setattr(figures, "stale", lambda names: [f"{names[0]} is missing"])
    assert call("figures", "curves", "--check")[0] == 1
    monkeypatch.setattr(figures, "draw", lambda names: draw(names, runs_in, tmp_path))
    code, printed = call("figures", "errors")
    assert code == 0 and printed.out.startswith(
        f"{tmp_path / 'quick-errors'}.svg and .png: Error against the number of layers, plain"
    )
    assert (tmp_path / "quick-errors.svg").exists()
