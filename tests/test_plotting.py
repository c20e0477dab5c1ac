import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from helpers import plotting
from helpers.experiments import EXPERIMENTS
from helpers.plotting import (
    NOTHING,
    describe_curves,
    describe_errors,
    describe_responses,
    last_rows,
    plot_curves,
    plot_errors,
    plot_responses,
    put_stamp,
    show,
    stamp,
    style,
)

MARKS = {"train_error": "--", "test_error": "-"}


def rows(kind, depth, seed, shortcut="A", **changes):
    """Three rows of metrics of one run, as `load_runs` gives them."""
    return [
        {
            "suite": "s", "network": f"{kind}-{depth}", "depth": depth, "kind": kind, "seed": seed, "data": "cifar10",
            "shortcut": "plain" if kind == "plain" else shortcut, "precision": "float32", "steps": 3000,
            "finished": True, "step": step, "train_error": depth / 4 + 10 / step + seed,
            "test_error": depth / 2 + 10 / step + seed, **changes,
        }
        for step in (1000, 2000, 3000)
    ]  # fmt: skip


@pytest.fixture
def table():
    """Two depths of each kind, two seeds, three rows each."""
    kinds = ("plain", "residual")
    return pd.DataFrame(row for k in kinds for depth in (20, 56) for seed in (0, 1) for row in rows(k, depth, seed))


def drawn(ax):
    """The lines of data: neither those of the legend alone, nor the dotted ones where the rate falls."""
    return [line for line in ax.lines if len(line.get_xdata()) and line.get_linestyle() != ":"]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().texts]


def test_a_line_is_the_mean_of_the_seeds_and_its_band_their_range(table):
    plain = table[(table.kind == "plain") & (table.depth == 20)]
    ax = plot_curves(plain)
    for line, band, measure in zip(drawn(ax), ax.collections, MARKS, strict=True):
        first, second = (plain[plain.seed == seed][measure].to_numpy() for seed in (0, 1))
        assert line.get_linestyle() == MARKS[measure] and list(line.get_xdata()) == [1000, 2000, 3000]
        np.testing.assert_allclose(line.get_ydata(), (first + second) / 2)
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (first.min(), second.max())


def test_a_depth_has_one_colour_and_marker_in_both_lines(table):
    ax = plot_curves(table[table.kind == "plain"])
    looks = [(line.get_color(), line.get_marker()) for line in drawn(ax)]
    assert looks[0] == looks[1] and looks[2] == looks[3] and not set(looks[0]) & set(looks[2])
    assert legend(ax) == ["20 layers", "56 layers", "training", "test"]


def test_every_depth_shortcut_and_precision_has_its_own_colour_and_marker():
    specs = [config.spec for config in EXPERIMENTS.values()]
    paths = ["float32", "bfloat16"]
    for by, values in {
        "depth": {s.depth for s in specs},
        "shortcut": {s.shortcut for s in specs},
        "precision": paths,
    }.items():
        for key in ("color", "marker", "label"):
            assert len({style(by, value)[key] for value in values}) == len(values), (by, key)
    assert style("depth", 26)["marker"] != style("depth", 38)["marker"]


def test_no_colour_and_marker_mean_two_things_and_kinds_are_told_apart_in_grey():
    assert len(set(plotting.STYLES.values())) == len(plotting.STYLES)
    colours = {name: look.split()[0] for name, look in plotting.STYLES.items()}
    kinds, depths = ({c for n, c in colours.items() if isinstance(n, kind)} for kind in (str, int))
    assert kinds & depths == {colours[1202]} == {"#000000"}, "of the depths only 1202, never beside its own kind's line"
    for group in (("plain", "A", "B", "C"), ("float32", "bfloat16")):
        greys = sorted(np.dot(to_rgb(colours[name]), (0.299, 0.587, 0.114)) for name in group)
        assert min(np.diff(greys)) > 0.08, group


def test_what_a_notebook_draws_itself_has_the_safe_colours():
    lines = [line for _ in range(4) for line in plt.plot([0, 1])]
    assert [line.get_color() for line in lines] == plotting.COLOURS


def test_a_run_behind_another_seed_is_counted_but_in_no_mean():
    behind = rows("residual", 26, 7, finished=False)[:1]
    runs = pd.DataFrame([*rows("residual", 26, 0), *behind])
    ax = plot_curves(runs)
    ax.figure.canvas.draw()
    assert [list(line.get_xdata()) for line in drawn(ax)] == [[1000, 2000, 3000]] * 2 and not ax.collections
    assert stamp(runs).endswith(" · 1 of 2 runs unfinished") and "seed 0, 7 ·" in stamp(runs)
    assert "26 layers 6.50 % training, 13.00 % test." in describe_errors(runs)
    assert [line.get_ydata().tolist() for line in drawn(plot_errors(runs))] == [[13 + 10 / 3000]] * 2
    assert "26 layers 13.51 % training" in describe_curves(pd.DataFrame(behind))


def test_networks_of_one_depth_are_not_joined(table):
    other = table[table.kind == "plain"].assign(network=lambda runs: runs.network + "-B")
    ax = plot_curves(pd.concat([table[table.kind == "plain"], other]))
    assert all(list(line.get_xdata()) == [1000, 2000, 3000] for line in drawn(ax)) and len(drawn(ax)) == 8


def test_the_scale_is_the_papers_for_the_full_schedule_and_else_that_of_all_but_the_first_tenth(table):
    whole = table.assign(steps=64_000)
    assert plot_curves(whole).get_ylim() == (0, 20)
    assert "; the axis ends at 20 %, and training starts above it. Errors" in describe_curves(whole)
    assert "axis" not in describe_curves(whole[whole.depth == 20]) + describe_curves(table), "nothing is above it"
    early = table[table.step == 1000].assign(step=299, test_error=90.0)
    later = table[["train_error", "test_error"]].max().max()
    assert plot_curves(pd.concat([early, table])).get_ylim() == (0, pytest.approx(1.05 * later))
    assert plot_curves(early).get_ylim() == (0, pytest.approx(1.05 * 90)), "there is nothing else yet"


def test_the_steps_at_which_the_rate_falls_are_dotted_once_they_are_reached(table):
    table = table.assign(steps=5000)  # the rate falls at 2,500 and 3,750, and the rows end at 3,000
    dotted = [line.get_xdata()[0] for line in plot_curves(table).lines if line.get_linestyle() == ":"]
    assert dotted == [2500] and "; dotted lines where the learning rate falls;" in describe_curves(table)
    two = pd.concat([table, table.assign(suite="t", steps=4000)])
    for runs in (two, table[table.step < 2500]):
        assert not any(line.get_linestyle() == ":" for line in plot_curves(runs).lines)
        assert "dotted" not in describe_curves(runs)


def test_the_last_iteration_is_reported_not_the_best(table):
    table.loc[table.step == 2000, "test_error"] = 0.0
    ends = last_rows(table)
    assert (ends.step == 3000).all() and len(ends) == 8


def test_a_run_has_one_last_row_in_tables_that_were_put_together():
    runs = pd.concat([pd.DataFrame(rows("plain", depth, 0)) for depth in (20, 56)])
    assert list(last_rows(runs).network) == ["plain-20", "plain-56"]


def test_the_words_and_the_stamp_come_from_the_data(table):
    one = table[table.seed == 0]
    assert "Residual nets, option A: 20 layers 5.00 % training, 10.00 % test; 56 layers 14.00 %" in describe_curves(one)
    assert "band" not in describe_curves(one)
    words = describe_curves(table)
    assert "; bands span the lowest to the highest seed. Errors at the last step, as means over seeds" in words
    assert "Plain nets: 20 layers 5.50 % training, 10.50 % (10.00 to 11.00) test; 56 layers" in words
    assert stamp(table) == "suite s · 3,000 steps · seed 0, 1 · cifar10 · float32"
    assert f"Drawn from: {stamp(table)}." in words
    assert "seed 0, 1 (some nets fewer)" in stamp(table[(table.seed == 0) | (table.depth == 20)])
    two = pd.concat([one, one.assign(precision="bfloat16", suite="t")])
    assert "Plain nets, bfloat16, suite t: 20 layers" in describe_curves(two)
    assert stamp(two) == "suite s, t · 3,000 steps · seed 0 · cifar10 · bfloat16, float32"


def test_an_error_has_a_point_for_each_seed_and_a_line_through_the_means(table):
    ax = plot_errors(table, measure="train_error")
    mean, points = drawn(ax)[:2]
    ends = table[(table.step == 3000) & (table.kind == "plain")]
    np.testing.assert_allclose(mean.get_ydata(), ends.groupby("depth").train_error.mean())
    assert sorted(points.get_ydata()) == sorted(ends.train_error)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["20", "56"]
    assert legend(ax) == ["plain", "residual (A)"] and ax.get_ylabel() == "training error (%)"
    assert [line.get_linestyle() for line in drawn(ax)[::2]] == ["--", "-"]
    assert describe_errors(table).startswith("Error against the number of layers, plain nets dashed. Errors at the")


def test_a_few_large_values_make_the_scale_logarithmic(table):
    assert plot_errors(table).get_yscale() == "linear"
    table.loc[table.network == "plain-56", "test_error"] = 400.0
    assert plot_errors(table).get_yscale() == "log"
    assert plot_errors(table.replace({"test_error": {10 + 10 / 3000: 0.0}})).get_yscale() == "linear"


@pytest.fixture
def responses(table):
    """Three layers of each net; that of seed 1 is 0.2 larger."""
    every = table.drop_duplicates(["network", "seed"]).drop(columns=["step", "train_error", "test_error"])
    layers = pd.DataFrame({"layer": ["stem", "b", "a"], "std": [0.5, 2.0, 1.0]})
    found = every.merge(layers, how="cross")
    return found.assign(std=found["std"] + 0.2 * found.seed)


@pytest.mark.parametrize(("ordered", "values"), [(False, [0.6, 2.1, 1.1]), (True, [2.1, 1.1, 0.6])])
def test_responses_keep_the_layers_order_or_are_sorted(responses, ordered, values):
    ax = plot_responses(responses, ordered=ordered)
    for line in drawn(ax):
        np.testing.assert_allclose(line.get_ydata(), values)
        assert list(line.get_xdata()) == [1, 2, 3]
    assert legend(ax) == ["plain-20", "plain-56", "residual-20", "residual-56"]
    assert [line.get_linestyle() for line in drawn(ax)] == ["--", "--", "-", "-"]
    words = describe_responses(responses)
    assert "residual-56: 3 layers from 0.60 to 2.10, median 1.10." in words and "; means over seeds. plain-20" in words
    assert "means" not in describe_responses(responses[responses.seed == 0])


@pytest.mark.parametrize("empty", [pd.DataFrame(), pd.DataFrame(rows("plain", 20, 0))[:0]])
def test_nothing_recorded_is_said_in_the_figure_and_in_words(empty):
    for plot, describe in (
        (plot_curves, describe_curves),
        (plot_errors, describe_errors),
        (plot_responses, describe_responses),
    ):
        assert plot(empty).figure.get_supxlabel() == NOTHING == describe(empty)
    assert last_rows(empty).empty


def test_axes_that_are_given_are_drawn_on(table, responses):
    for plot, data in ((plot_curves, table), (plot_errors, table), (plot_responses, responses)):
        ax = plt.figure().subplots()
        assert plot(data, ax) is ax and drawn(ax)


def test_text_is_readable_at_half_size(table):
    figure = plot_curves(table).figure
    pixels_a_point = plotting.PIXELS / 72 / 2
    texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
    assert min(text.get_fontsize() * pixels_a_point for text in texts) >= 7


def shown(monkeypatch, figure, words):
    bundles = []
    monkeypatch.setattr(plotting, "display", lambda bundle, raw: bundles.append(bundle))
    show(figure, words)
    [bundle] = bundles
    return bundle, Image.open(io.BytesIO(base64.b64decode(re.search('base64,(.*?)"', bundle["text/html"])[1])))


def test_show_has_the_description_as_alt_and_below_and_closes_the_figure(table, monkeypatch):
    figure = plot_curves(table).figure
    bundle, image = shown(monkeypatch, figure, 'a "quoted" <description>')
    assert 'alt="a &quot;quoted&quot; &lt;description&gt;"' in bundle["text/html"]
    assert ">a &quot;quoted&quot; &lt;description&gt;</p>" in bundle["text/html"]
    assert bundle["text/plain"] == 'a "quoted" <description>'
    assert image.getpixel((0, 0)) == (255, 255, 255, 255) and image.width == 1500
    assert not plt.fignum_exists(figure.number)


def test_the_words_below_a_figure_leave_out_the_stamp_that_it_has(monkeypatch):
    stamp = f"{'word ' * 18}so-called-hyphenated-words"
    figure = plt.figure()
    put_stamp(figure, stamp)
    assert "\nso-called" in figure.get_supxlabel(), "it is folded, and not at a hyphen"
    bundle = shown(monkeypatch, figure, f"It rises. Drawn from: {stamp}. And falls.")[0]
    assert ">It rises. And falls.</p>" in bundle["text/html"]
    assert f'alt="It rises. Drawn from: {stamp}. And falls."' in bundle["text/html"]
    assert f"Drawn from: {stamp}." in bundle["text/plain"]


def test_a_dark_page_darkens_drawings_but_not_photographs(table, monkeypatch):
    photograph = plt.figure()
    photograph.subplots().imshow(np.zeros((2, 2, 3)))
    assert 'img class="drawing"' in shown(monkeypatch, plot_curves(table).figure, "")[0]["text/html"]
    assert 'img class="picture"' in shown(monkeypatch, photograph, "")[0]["text/html"]
    assert re.search(r'theme-light="false"\] img\.drawing {filter: invert', plotting.DARK)
