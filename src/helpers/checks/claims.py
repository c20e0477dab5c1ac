"""Notebook 13: whether the runs of one network reproduce the paper's error."""

from collections.abc import Callable
from statistics import fmean, median

from helpers.checks.verdict import Mistake, exercise, expect

WORDS = ("reproduced", "not reproduced", "inconclusive", "not yet run")
CASES = [  # errors by seed, the paper's error, how many other runs there are
    ({}, 8.75, 0),
    ({}, 8.75, 2),
    ({0: 8.7}, 8.75, 0),
    ({0: 8.7, 1: 8.8}, 8.75, 3),
    ({0: 9.7, 1: 9.8}, 8.75, 0),
    ({0: 8.6, 1: 8.8, 2: 9.0}, 8.75, 0),
    ({2: 9.0, 0: 8.6, 1: 8.8}, 8.75, 1),
    ({0: 9.4, 1: 9.5, 2: 9.6}, 8.75, 0),
    ({0: 8.0, 1: 8.1, 2: 7.9}, 8.75, 0),
    ({0: 9.19, 1: 9.24, 2: 9.29}, 8.75, 0),  # 0.49 above
    ({0: 9.21, 1: 9.26, 2: 9.31}, 8.75, 0),  # 0.51 above
    ({0: 8.19, 1: 8.24, 2: 8.29}, 8.75, 0),  # 0.51 below
    ({0: 8.3, 1: 8.8, 2: 9.6}, 8.75, 0),  # one seed is further off than the mean
    ({0: 8.8, 1: 9.6, 2: 9.7}, 8.75, 0),  # one seed is nearer than the mean
    ({0: 8.8, 1: 8.7, 2: 10.6}, 8.75, 0),  # the median is nearer than the mean
    ({0: 8.6, 1: 8.8, 2: 9.0, 3: 10.9, 4: 10.9}, 8.75, 0),
    ({0: 9.9, 1: 9.8, 2: 9.9, 3: 8.0, 4: 8.0}, 8.75, 0),
    ({4: 10.9, 3: 10.9, 2: 9.0, 1: 8.8, 0: 8.6}, 8.75, 0),
    ({0: 8.6, 1: 8.8, 4: 9.0}, 8.75, 0),
    ({0: 6.3, 1: 6.5, 2: 6.7}, 6.61, 0),
]


@exercise("write verdict(errors, paper, others): one of the four words, by the rule for an error")
def check_verdict(verdict: Callable[[dict[int, float], float, int], str]) -> str:
    """verdict: full-length errors by seed, the paper's, the number of other runs -> one of the rule's four words."""
    found, right = [verdict(dict(errors), paper, others) for errors, paper, others in CASES], decide_all()
    odd = [answer for answer in found if answer not in WORDS]
    expect(not odd, f"the answer is one of {', '.join(map(repr, WORDS))}, and yours was {odd[0] if odd else ''!r}")
    if found != right:
        for mistake, wrong in wrong_rules(right).items():
            expect(found != wrong, mistake)
        case = next(i for i, answer in enumerate(found) if answer != right[i])
        errors, paper, others = CASES[case]
        given = f"the errors {errors} beside the paper's {paper} and {others} other runs"
        raise Mistake(f"for {given} the answer is {right[case]!r}, not {found[case]!r}")
    return "seeds 0, 1 and 2 at full length, their mean, half a point to either side."


def first_three(errors: dict[int, float]) -> list[float]:
    return [errors[seed] for seed in (0, 1, 2)] if {0, 1, 2} <= set(errors) else []


def near(values: list[float], paper: float) -> bool:
    return abs(fmean(values) - paper) <= 0.5


def decide(errors, paper, others, chosen=first_three, agrees=near, nothing=lambda others: others == 0) -> str:
    """The rule, or with other options one like it: which errors count, when they agree, when there is no run."""
    if values := chosen(errors):
        return "reproduced" if agrees(values, paper) else "not reproduced"
    return "not yet run" if not errors and nothing(others) else "inconclusive"


def decide_all(**options) -> list[str]:
    return [decide(*case, **options) for case in CASES]


def at_least(least: int) -> Callable[[dict[int, float]], list[float]]:
    return lambda errors: list(errors.values()) if len(errors) >= least else []


def wrong_rules(right: list[str]) -> dict[str, list[str]]:
    """What a rule with one mistake says of the cases."""
    swap = {"reproduced": "not reproduced", "not reproduced": "reproduced"}
    return {
        "'reproduced' and 'not reproduced' are the wrong way round": [swap.get(answer, answer) for answer in right],
        "with fewer than three seeds nothing is decided": decide_all(chosen=at_least(1)),
        "with fewer than three seeds nothing is decided, and yours decides with two": decide_all(chosen=at_least(2)),
        "seeds after the first three change no verdict, and yours averages over all": decide_all(chosen=at_least(3)),
        "seeds 0, 1 and 2 decide, and yours takes the first three that the dictionary names": decide_all(
            chosen=lambda errors: at_least(3)(errors)[:3]
        ),
        "seeds 0, 1 and 2 decide: where one is missing, a later one does not take its place": decide_all(
            chosen=lambda errors: [errors[seed] for seed in sorted(errors)[:3]] if len(errors) >= 3 else []
        ),
        "seeds 0, 1 and 2 decide: where one is missing nothing is decided, and later ones do not count": decide_all(
            chosen=lambda errors: first_three(errors) or at_least(3)(errors)
        ),
        "an error that is lower by more than half a point is not the paper's either": decide_all(
            agrees=lambda values, paper: fmean(values) - paper <= 0.5
        ),
        "an error that is higher by more than half a point is not the paper's either": decide_all(
            agrees=lambda values, paper: paper - fmean(values) <= 0.5
        ),
        "the mean of the seeds decides, and yours takes the best": decide_all(
            agrees=lambda values, paper: near([min(values)], paper)
        ),
        "the mean decides, and yours takes the median": decide_all(
            agrees=lambda values, paper: near([median(values)], paper)
        ),
        "the mean decides, and yours wants each seed to be near": decide_all(
            agrees=lambda values, paper: all(near([value], paper) for value in values)
        ),
        "the mean decides, and yours is content with one seed that is near": decide_all(
            agrees=lambda values, paper: any(near([value], paper) for value in values)
        ),
        "other runs are not nothing: where there are some, the answer is 'inconclusive'": decide_all(
            nothing=lambda others: True
        ),
        "without any run the answer is 'not yet run'": decide_all(nothing=lambda others: False),
        "other runs are no seeds: they only tell 'inconclusive' from 'not yet run'": [
            decide(errors, paper, others, at_least(max(1, 3 - others))) for errors, paper, others in CASES
        ],
        "yours never decides": [answer if answer == "not yet run" else "inconclusive" for answer in right],
    }
