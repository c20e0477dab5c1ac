"""Notebook 06: which number is reported, and when two sets of runs differ."""

import pandas as pd

from helpers.checks.verdict import Mistake, exercise, expect


def made_up_runs() -> pd.DataFrame:
    """Two networks, one with three seeds, one with more steps; the best step is not the last, the rows not in order."""
    curves = {
        ("plain-20", 0): [40, 13, 20],
        ("plain-20", 1): [42, 12, 16],
        ("plain-20", 2): [43, 14, 21],
        ("resnet-20", 0): [30, 9, 12, 11],
    }
    rows = [
        {"network": network, "seed": seed, "step": 100 * (i + 1), "train_error": error / 2, "test_error": float(error)}
        for (network, seed), errors in curves.items()
        for i, error in enumerate(errors)
    ]
    return pd.DataFrame(rows).iloc[[2, 0, 1, 5, 3, 4, 7, 8, 6, 10, 9, 12, 11]].reset_index(drop=True)


@exercise("write report(runs): for each network, the mean over its seeds of the test error of the last step")
def check_report(report) -> str:
    """report: a table of rows of metrics -> test error by network, percent (a Series)."""
    runs = made_up_runs()
    before = runs.copy()
    found = report(runs)
    expect(runs.equals(before), "your function changes the table that it is given: work on a copy")
    expect(isinstance(found, pd.Series), f"a Series by network is wanted, and this is of type {type(found).__name__}")
    expect(
        sorted(found.index) == ["plain-20", "resnet-20"],
        f"the Series should have one number for each network, and its index is {list(found.index)}",
    )
    ordered = runs.sort_values("step")
    last = ordered.groupby(["network", "seed"]).tail(1).sort_values("seed")
    by_network = runs.groupby("network")
    mistakes = {
        "that is the best step of each run, chosen by looking at the test set: report the last": runs.groupby(
            ["network", "seed"]
        )
        .test_error.min()
        .groupby("network")
        .mean(),
        "that is the best number of all: of every step and every seed": by_network.test_error.min(),
        "that is the mean over all steps: only the last counts": by_network.test_error.mean(),
        "that is the training error": last.groupby("network").train_error.mean(),
        "that is an accuracy: the error is 100 minus it": 100 - last.groupby("network").test_error.mean(),
        "your last row is the last in the table, and its rows need not be in the order of steps": runs.groupby(
            ["network", "seed"]
        )
        .tail(1)
        .groupby("network")
        .test_error.mean(),
        "you report one seed of each network: average over its seeds": last[last.seed == 0]
        .set_index("network")
        .test_error,
        "you report the last seed of each network: average over its seeds": last.sort_values("seed")
        .groupby("network")
        .test_error.last(),
        "you report the better of the seeds: average over them": last.groupby("network").test_error.min(),
        "that is the median over all steps: only the last counts": by_network.test_error.median(),
    }
    right = last.groupby("network").test_error.mean()
    if not same(found, right):
        for mistake, wrong in mistakes.items():
            expect(not same(found, wrong), mistake)
        name = next(name for name in right.index if not same(found, right[[name]]))
        ends = ", ".join(f"{error:g}" for error in last.test_error[last.network == name])
        raise Mistake(f"{name} ended at {ends} %, so {right[name]:g} is to be reported, and yours says {found[name]:g}")
    return "the last step of every run, averaged over the seeds. Nothing was chosen."


def same(found: pd.Series, wanted: pd.Series) -> bool:
    return all(abs(float(found[name]) - wanted[name]) < 1e-6 for name in wanted.index)


@exercise("write lower(a, b): 'a', 'b' or 'inconclusive', by the rule for an order")
def check_lower(lower) -> str:
    """lower: two lists of errors, one a seed -> "a", "b" or "inconclusive"."""
    found, right = [lower(list(a), list(b)) for a, b in CASES], decide_all()
    odd = [answer for answer in found if answer not in ("a", "b", "inconclusive")]
    expect(not odd, f"the answer is 'a', 'b' or 'inconclusive', and yours was {odd[0] if odd else ''!r}")
    if found != right:
        for mistake, wrong in wrong_rules(right).items():
            expect(found != wrong, mistake)
        case = next(i for i, answer in enumerate(found) if answer != right[i])
        raise Mistake(
            f"for a = {CASES[case][0]} and b = {CASES[case][1]} the answer is {right[case]!r}, not {found[case]!r}"
        )
    return "at least three seeds on each side, and a difference above twice its standard error."


CASES = [
    ([7.0, 7.1, 7.2], [9.0, 9.1, 9.2]),
    ([9.0, 9.1, 9.2], [7.0, 7.1, 7.2]),
    ([7.0, 7.1], [9.0, 9.1]),
    ([7.0], [9.0]),
    ([7.0, 7.1, 7.2, 7.3], [9.0, 9.1]),
    ([7.0, 7.1, 7.2], [9.0, 9.1]),
    ([9.0, 9.1], [7.0, 7.1, 7.2]),
    ([7.0, 7.2, 7.4], [7.1, 7.3, 7.5]),
    ([7.0, 7.2, 7.4], [7.18, 7.38, 7.58]),  # 1.1 standard errors
    ([7.0, 7.2, 7.4], [7.25, 7.45, 7.65]),
    ([7.0, 7.2, 7.4], [7.323, 7.523, 7.723]),  # 1.98
    ([7.0, 7.2, 7.4], [7.33, 7.53, 7.73]),  # 2.02
    ([7.0, 7.2, 7.4], [7.35, 7.5, 7.65]),
    ([7.0, 7.2, 7.4, 7.0, 7.4], [7.5, 7.5, 7.5, 7.5, 7.5]),
    ([7.0, 7.2, 7.4], [7.3, 7.5, 7.7]),
    ([7.1, 7.1, 7.1], [7.1, 7.3, 7.5]),
    ([7.1, 7.1, 7.1], [6.7, 7.2, 7.7]),
    ([7.0, 7.6, 7.6], [7.85, 7.9, 7.95]),  # the means decide, the medians would not
    ([7.0, 7.2, 7.4], [7.2, 7.4, 7.6, 7.8, 8.0, 7.2, 7.4, 7.6]),  # divided by 3 both, the variances would be too large
    ([7.0, 7.2, 7.4], [7.15, 7.35, 7.55, 7.75, 7.95, 7.15, 7.35, 7.55]),  # 1.8; divided by 8 both, 2.3
    ([7.0, 7.2, 7.4], [7.21, 7.41, 7.61]),  # 1.3; divided by all six seeds together, 1.8, and by the square of 3, 2.2
    ([7.0, 7.2, 7.4], [7.25, 7.45, 7.65, 7.85, 8.05, 7.25, 7.45, 7.65]),  # 2.5; pooled, 2.1; divided by 3 both, 1.9
    ([4.0, 8.0, 8.0, 8.0], [9.0, 9.0, 9.0, 9.0]),  # 2, to the last bit
]


def decide(a, b, times=2.0, ddof=1, least=3, count=min, divisor=lambda n: n, total=sum, of_both=None) -> str:
    """The rule, or with other options one like it; `divisor` of the number of seeds divides a variance.

    `of_both` gives the variance of the difference from both sides at once, instead of `ddof`, `divisor` and `total`.
    """
    a, b = pd.Series(a, dtype=float), pd.Series(b, dtype=float)
    if count((len(a), len(b))) < least:
        return "inconclusive"
    variance = of_both(a, b) if of_both else total([x.var(ddof=ddof) / divisor(len(x)) for x in (a, b)])
    difference = a.mean() - b.mean()
    if abs(difference) <= times * variance**0.5:
        return "inconclusive"
    return "b" if difference > 0 else "a"


def pool(a: pd.Series, b: pd.Series) -> float:
    """The variance of the difference of two means if both sides scattered alike (Student's t)."""
    n, m = len(a), len(b)
    return ((n - 1) * a.var() + (m - 1) * b.var()) / (n + m - 2) * (1 / n + 1 / m)


def decide_all(**options) -> list[str]:
    return [decide(a, b, **options) for a, b in CASES]


def wrong_rules(right: list[str]) -> dict[str, list[str]]:
    """What a rule with one mistake says of the cases."""
    swap = {"a": "b", "b": "a", "inconclusive": "inconclusive"}
    added = "you add the standard errors themselves: add their squares, and take the root of the sum"
    undivided = "you divide by nothing: a standard error is a standard deviation over the root of the number of seeds"
    return {
        "the lower error is the better one, and you name the other": [swap[answer] for answer in right],
        "with fewer than three seeds on either side nothing is decided": decide_all(least=0),
        "with fewer than three seeds on either side nothing is decided; yours decides with two": decide_all(least=2),
        "both sides need three seeds, and yours is content with one side": decide_all(count=max),
        "each side needs three seeds, and yours counts both together": decide_all(count=sum, least=6),
        undivided: decide_all(divisor=lambda n: 1),
        "you divide a standard deviation by the number of seeds: by its root": decide_all(divisor=lambda n: n**2),
        "you divide by the number of all seeds together: each side's variance is divided by its own": decide_all(
            of_both=lambda a, b: (a.var() + b.var()) / (len(a) + len(b))
        ),
        "you pool the scatter of both sides, as if it were the same: each mean has a standard error of its own": (
            decide_all(of_both=pool)
        ),
        added: decide_all(total=lambda parts: sum(part**0.5 for part in parts) ** 2),
        "the difference has to exceed twice its standard error, and yours need only exceed it once": decide_all(
            times=1
        ),
        "a standard deviation estimated from n seeds divides by n - 1, and yours by n": decide_all(ddof=0),
        "the variances of both means add up in their difference, and yours has only the larger": decide_all(total=max),
        "the variances of both means add up in their difference, and yours has only that of a": decide_all(
            total=lambda parts: parts[0]
        ),
        "yours lets any difference of means decide, however much the seeds scatter": decide_all(times=0),
        "yours never decides": ["inconclusive"] * len(CASES),
    }
