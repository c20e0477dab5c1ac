import statistics

import numpy as np
import pytest
from mutants import assert_named, parametrised

from helpers import checks


def last(runs):
    return runs.loc[runs.groupby(["network", "seed"]).step.idxmax()]


def report(runs):
    return last(runs).groupby("network").test_error.mean()


def sorted_first(runs):
    return runs.sort_values("step").groupby(["network", "seed"]).test_error.last().groupby("network").mean()


def in_place(runs):
    runs["step"] = runs.step.max()
    return report(runs)


@pytest.mark.parametrize("answer", [report, sorted_first, lambda runs: report(runs).astype("float32")])
def test_a_right_report_is_accepted(answer):
    assert checks.check_report(answer).state == "right"


@parametrised(
    [
        (
            lambda runs: runs.groupby(["network", "seed"]).test_error.min().groupby("network").mean(),
            "best step of each",
        ),
        (lambda runs: runs.groupby("network").test_error.min(), "best number of all"),
        (lambda runs: runs.groupby("network").test_error.mean(), "mean over all steps"),
        (lambda runs: last(runs).groupby("network").train_error.mean(), "training error"),
        (lambda runs: 100 - report(runs), "accuracy"),
        (lambda runs: last(runs).set_index("network").test_error, "one number for each network"),
        (
            lambda runs: runs.groupby(["network", "seed"]).test_error.last().groupby("network").mean(),
            "last in the table",
        ),
        (lambda runs: runs.sort_values("step").groupby("network").test_error.last(), "of each network: average"),
        (lambda runs: last(runs).groupby("network").test_error.min(), "the better of the seeds"),
        (lambda runs: report(runs) + 1, "plain-20 ended at 20, 16, 21 %, so 19 is to be reported"),
        (lambda runs: report(runs).where(lambda e: e > 15, 0), "resnet-20 ended at 11 %"),
        (lambda runs: report(runs[runs.step == runs.step.max()]), "one number for each network"),
        (lambda runs: last(runs).groupby(["network", "seed"]).test_error.mean(), "one number for each network"),
        (lambda runs: report(runs).to_dict(), "a Series"),
        (in_place, "changes the table"),
    ]
)
def test_a_wrong_report_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_report(mutant), phrase)


def lower(a, b, times=2, least=3, spread=lambda a, b: (np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)) ** 0.5):
    if min(len(a), len(b)) < least:
        return "inconclusive"
    difference = np.mean(a) - np.mean(b)
    if abs(difference) <= times * spread(a, b):
        return "inconclusive"
    return "b" if difference > 0 else "a"


def of_all_seeds(a, b):
    return ((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a + b)) ** 0.5


def pooled(a, b):
    """Student's: the textbook's standard error where both sides scatter alike."""
    squares = sum((x - np.mean(side)) ** 2 for side in (a, b) for x in side)
    return (squares / (len(a + b) - 2) * (1 / len(a) + 1 / len(b))) ** 0.5


def plainly(a, b):
    if len(a) < 3 or len(b) < 3:
        return "inconclusive"
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    if statistics.mean(a) + 2 * error < statistics.mean(b):
        return "a"
    return "b" if statistics.mean(b) + 2 * error < statistics.mean(a) else "inconclusive"


def by_medians(a, b):
    error = (np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)) ** 0.5 if min(len(a), len(b)) > 2 else np.inf
    difference = np.median(a) - np.median(b)
    return "inconclusive" if abs(difference) <= 2 * error else "b" if difference > 0 else "a"


def swapped(a, b):
    return {"a": "b", "b": "a"}.get(lower(a, b), "inconclusive")


@pytest.mark.parametrize("answer", [lower, plainly])
def test_a_right_rule_is_accepted(answer):
    assert checks.check_lower(answer).state == "right"


@parametrised(
    [
        (swapped, "you name the other"),
        (lambda a, b: lower(a, b) if max(len(a), len(b)) < 3 else lower(a, b, least=2), "content with one side"),
        (lambda a, b: lower(a, b, least=0) if len(a + b) > 5 else "inconclusive", "both together"),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: sum(np.var(x, ddof=1) / len(x) ** 2 for x in (a, b)) ** 0.5),
            "by its root",
        ),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: sum((np.var(x, ddof=1) / len(x)) ** 0.5 for x in (a, b))),
            "add their squares",
        ),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: ((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a)) ** 0.5),
            "the answer is",
        ),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: ((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(b)) ** 0.5),
            "the answer is 'inconclusive'",
        ),
        (lambda a, b: lower(a, b, spread=of_all_seeds), "the number of all seeds together"),
        (lambda a, b: lower(a, b, spread=pooled), "you pool the scatter"),
        (lambda a, b: "inconclusive" if len(b) < 3 else lower(a, b, least=0), "the answer is 'inconclusive'"),
        (lambda a, b: lower(a, b, times=2 - 1e-12), "the answer is 'inconclusive'"),
        (lambda a, b: lower(a, b, times=1.96), "the answer is 'inconclusive'"),
        (by_medians, "the answer is 'a'"),
        (lambda a, b: lower(a, b, least=2), "decides with two"),
        (lambda a, b: lower(a, b, times=1), "exceed it once"),
        (lambda a, b: lower(a, b, times=0), "however much the seeds scatter"),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: (np.var(a, ddof=1) + np.var(b, ddof=1)) ** 0.5),
            "root of the number",
        ),
        (lambda a, b: lower(a, b, spread=lambda a, b: (np.var(a) / len(a) + np.var(b) / len(b)) ** 0.5), "n - 1"),
        (lambda a, b: lower(a, b, spread=lambda a, b: (np.var(a, ddof=1) / len(a)) ** 0.5), "only that of a"),
        (
            lambda a, b: lower(a, b, spread=lambda a, b: max(np.var(x, ddof=1) / len(x) for x in (a, b)) ** 0.5),
            "only the larger",
        ),
        (lambda a, b: "inconclusive", "never decides"),
        (lambda a, b: np.mean(a) < np.mean(b), "'a', 'b' or 'inconclusive'"),
    ]
)
def test_a_wrong_rule_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_lower(mutant), phrase)
