import pandas as pd
import pytest

from helpers.lines import describe_lines, plot_lines, plot_panels


@pytest.fixture
def table():
    index = pd.RangeIndex(1, 4, name="step")
    return pd.DataFrame({"plain": [3.0, 2.0, 1.5], "residual": [3.0, 1.0, 0.25]}, index=index)


def test_a_line_for_each_column_told_apart_by_colour_and_by_dashes(table):
    plain, residual = plot_lines(table).lines
    assert list(plain.get_xdata()) == [1, 2, 3] and list(residual.get_ydata()) == [3.0, 1.0, 0.25]
    assert (plain.get_linestyle(), residual.get_linestyle()) == ("--", "-")
    assert plain.get_color() != residual.get_color() and plain.get_marker() != residual.get_marker()
    assert [text.get_text() for text in plain.axes.get_legend().texts] == ["plain", "residual"]


def test_a_column_may_have_any_name(table):
    plot_panels({"": table.rename(columns={"residual": "no shortcut"})}, "loss", "").canvas.draw()


def test_panels_share_a_scale_and_one_legend_and_carry_the_stamp(table):
    figure = plot_panels({"left": table, "right": 10 * table}, "loss", "drawn images · seed 0", yscale="log")
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim() and left.get_yscale() == "log"
    assert [ax.get_title() for ax in figure.axes] == ["left", "right"]
    assert len(figure.legends) == 1 and left.get_legend() is None
    assert figure.get_supxlabel() == "drawn images · seed 0"


def test_the_words_come_from_the_data(table):
    words = describe_lines({"left": table}, "loss", "drawn images · seed 0")
    assert words == (
        "Loss. Left, step from 1 to 3: plain from 3 to 1.5, residual from 3 to 0.25. Drawn from: drawn images · seed 0."
    )


def test_words_name_extremes_that_the_ends_do_not_show(table):
    bumpy = pd.DataFrame({"plain": [0.25, 0.01, 0.98, 0.5]}, index=pd.RangeIndex(1, 5, name="layer"))
    assert "plain from 0.25 to 0.5 (lowest 0.01, highest 0.98)" in describe_lines({"left": bumpy}, "cosine", "")


def test_words_have_two_digits_and_no_extreme_that_is_an_end_in_them():
    falling = pd.DataFrame({"plain": [561.3, 16.95, 4.641e-5, 4.68e-5]}, index=pd.RangeIndex(1, 5, name="step"))
    assert "plain from 560 to 4.7e-05 (lowest 4.6e-05)." in describe_lines({"left": falling}, "distance", "")
    nearly = pd.DataFrame({"plain": [3.0, 1.001, 1.0, 1.002]}, index=pd.RangeIndex(1, 5, name="step"))
    assert "plain from 3 to 1." in describe_lines({"left": nearly}, "distance", "")
