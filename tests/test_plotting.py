import matplotlib.pyplot as plt
import pandas as pd
import pytest

from helpers.plotting import COLOURS, Picture, describe_curves, last_rows, plot_curves, plot_plain_and_residual, stamp


@pytest.fixture
def table():
    """Two depths of each kind, two seeds, three rows each."""
    runs = [
        {
            "suite": "s", "network": f"{kind}-{depth}", "depth": depth, "kind": kind, "seed": seed, "data": "cifar10",
            "precision": "float32", "steps": 3000, "finished": True, "step": step,
            "train_error": depth / 4 + 10 / step + seed, "test_error": depth / 2 + 10 / step + seed,
        }
        for kind in ("plain", "residual") for depth in (20, 56) for seed in (0, 1) for step in (1000, 2000, 3000)
    ]  # fmt: skip
    return pd.DataFrame(runs)


def test_training_is_dashed_test_is_solid_and_a_depth_has_one_colour(table):
    ax = plot_curves(table[table.kind == "plain"], plt.figure().subplots())
    drawn = [line for line in ax.lines if len(line.get_xdata())]
    assert len(drawn) == 8
    for line in drawn:
        values = table.query("kind == 'plain'")["train_error" if line.get_linestyle() == "--" else "test_error"]
        assert set(line.get_ydata()) <= set(values)
    assert {line.get_color() for line in drawn} == {COLOURS[20], COLOURS[56]}
    assert len({line.get_marker() for line in drawn}) == 2
    assert [text.get_text() for text in ax.get_legend().texts] == ["20 layers", "56 layers", "training", "test"]


def test_networks_of_one_depth_are_not_joined(table):
    both = pd.concat(
        [table[table.kind == "plain"], table[table.kind == "plain"].assign(network=lambda runs: runs.network + "-B")]
    )
    ax = plot_curves(both, plt.figure().subplots())
    assert all(list(line.get_xdata()) in ([], [1000, 2000, 3000]) for line in ax.lines)


def test_the_last_iteration_is_reported_not_the_best(table):
    table.loc[table.step == 2000, "test_error"] = 0.0
    ends = last_rows(table)
    assert (ends.step == 3000).all() and len(ends) == 8


def test_the_words_and_the_stamp_come_from_the_data(table):
    words = describe_curves(table)
    assert "Residual net of 56 layers: training error 14.5 %, test error 28.5 %." in words
    assert stamp(table) == "suite s · 3,000 steps · seed 0, 1 · cifar10 · float32"
    assert stamp(table) in words
    assert "unfinished" in stamp(table.assign(finished=False))


def test_a_picture_has_its_description_as_alt_and_below(table):
    markup = Picture(plot_plain_and_residual(table), 'a "quoted" <description>')._repr_html_()
    assert markup.count("a &quot;quoted&quot; &lt;description&gt;") == 2
    assert 'src="data:image/png;base64,' in markup
