from statistics import fmean, median

import pandas as pd
import pytest
from mutants import assert_named, parametrised

from helpers import checks


def verdict(errors, paper, others, seeds=(0, 1, 2), average=fmean, distance=abs):
    if not all(seed in errors for seed in seeds):
        return "inconclusive" if errors or others else "not yet run"
    far = distance(average([errors[seed] for seed in seeds]) - paper) > 0.5
    return "not reproduced" if far else "reproduced"


def by_pandas(errors, paper, others):
    seeds = pd.Series(errors, dtype=float).reindex([0, 1, 2])
    if seeds.isna().any():
        return "not yet run" if len(errors) + others == 0 else "inconclusive"
    return "reproduced" if round(abs(seeds.mean() - paper), 6) <= 0.5 else "not reproduced"


@pytest.mark.parametrize("answer", [verdict, by_pandas])
def test_a_right_verdict_is_right(answer):
    assert checks.check_verdict(answer).state == "right"


def over(least, pick=lambda errors: list(errors.values())):
    """A rule that judges the seeds that `pick` takes, once there are `least`."""

    def answer(errors, paper, others):
        if len(errors) < least:
            return verdict({}, paper, len(errors) + others)
        return verdict({0: fmean(pick(errors))}, paper, others, seeds=(0,))

    return answer


MUTANTS = {
    "turned round": (
        lambda *case: {"reproduced": "not reproduced", "not reproduced": "reproduced"}.get(
            verdict(*case), verdict(*case)
        ),
        "wrong way round",
    ),
    "one seed decides": (over(1), "fewer than three seeds nothing is decided"),
    "two seeds decide": (over(2), "decides with two"),
    "all seeds": (over(3), "averages over all"),
    "the first three named": (over(3, lambda errors: list(errors.values())[:3]), "that the dictionary names"),
    "the lowest three there are": (over(3, lambda errors: [errors[k] for k in sorted(errors)[:3]]), "take its place"),
    "lower is fine": (lambda *case: verdict(*case, distance=lambda d: d), "lower by more than half a point"),
    "higher is fine": (lambda *case: verdict(*case, distance=lambda d: -d), "higher by more than half a point"),
    "the best seed": (lambda *case: verdict(*case, average=min), "takes the best"),
    "the median": (lambda *case: verdict(*case, average=median), "takes the median"),
    "nothing is ever not run": (lambda errors, paper, others: verdict(errors, paper, 1), "the answer is 'not yet run'"),
    "other runs forgotten": (lambda errors, paper, others: verdict(errors, paper, 0), "other runs are not nothing"),
    "never": (lambda *case: "not yet run" if verdict(*case) == "not yet run" else "inconclusive", "never decides"),
    "true or false": (lambda *case: verdict(*case) == "reproduced", "the answer is one of"),
    "a whole point": (lambda *case: verdict(*case, distance=lambda d: abs(d) / 2), "the answer is 'not reproduced'"),
    "in percent of the paper's": (
        lambda errors, paper, others: verdict(errors, paper, others, distance=lambda d: 100 * abs(d) / paper),
        "the answer is 'reproduced'",
    ),
}


@parametrised(MUTANTS)
def test_a_wrong_verdict_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_verdict(mutant), phrase)
