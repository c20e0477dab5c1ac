"""Notebook 07: the warm-up's gate and the schedule after it (Sec. 4.2)."""

import math
from functools import partial

import torch
from torch import Tensor

from helpers.checks.verdict import exercise, expect
from helpers.config import Schedule


def opens(errors: Tensor, wanted=lambda window: window.mean() < 80, window: int = 100, stride: int = 100) -> int | None:
    """Where the first window that is `wanted` ends; one ends every `stride` steps."""
    ends = range(window, len(errors) + 1, stride)
    return next((end for end in ends if wanted(errors[end - window : end])), None)


def after(change):
    """A right gate's answer, changed where there is one."""
    return lambda errors: opens(errors) and change(opens(errors))


WRONG_GATES = {
    "one lucky batch opens your gate: take the mean of 100 steps": [
        partial(opens, window=1, stride=1),
        lambda errors: int((errors < 80).nonzero()[0]) if (errors < 80).any() else None,
    ],
    "your windows overlap: look after every 100 steps, at those 100": [partial(opens, stride=1)],
    "your mean is that of all errors so far: take the last 100 alone": [
        lambda errors: next((end for end in range(100, len(errors) + 1, 100) if errors[:end].mean() < 80), None)
    ],
    "the mean has to fall below 80 %, and at exactly 80 % your gate opens": [
        partial(opens, wanted=lambda window: window.mean() <= 80)
    ],
    "your gate opens when the error is above 80 %: it should be below": [
        partial(opens, wanted=lambda window: window.mean() > 80)
    ],
    "80 % is an error; your gate waits for an accuracy of 80 %": [partial(opens, wanted=lambda w: w.mean() < 20)],
    "the errors are in percent: compare with 80, not with 0.8": [partial(opens, wanted=lambda w: w.mean() < 0.8)],
    "that is the median of the hundred: take the mean": [partial(opens, wanted=lambda w: w.median() < 80)],
    "your gate waits for all 100 errors to be below 80 %: it is their mean that counts": [
        partial(opens, wanted=lambda window: (window < 80).all())
    ],
    "a single error below 80 % opens your gate: it is the mean of the hundred that counts": [
        partial(opens, wanted=lambda window: (window < 80).any()),
        partial(opens, wanted=lambda window: window[-1] < 80),
    ],
    "a window is only judged when it is full: after 60 steps nothing is decided": [
        lambda errors: opens(torch.cat([errors, errors.mean().repeat(-len(errors) % 100)])),
        lambda errors: len(errors) if len(errors) < 100 else opens(errors),
    ],
    "your gate leaves out the last full hundred: it counts too": [lambda errors: opens(errors[:-1])],
    "your gate judges the first hundred only: go on to the next": [lambda errors: opens(errors[:100])],
    "your gate opens after the last hundred below 80 %: the first is wanted": [
        lambda errors: max(
            (end for end in range(100, len(errors) + 1, 100) if errors[end - 100 : end].mean() < 80), default=None
        )
    ],
    "that is the number of the window: multiply by 100 to have steps": [after(lambda end: end // 100)],
    "your gate opens where the window begins; its mean is known when the window ends": [
        after(lambda end: end - 100),
        after(lambda end: end // 100 - 1),
    ],
    "your gate never opens: does it return its answer?": [lambda errors: None],
}


def training_errors() -> dict[str, Tensor]:
    """Errors of single steps, in percent, by what they are; together they tell all wrong gates apart."""
    falling = torch.linspace(95, 60, 450) + 15 * torch.randn(450)
    falling[130:136] = 70.0  # a few lucky batches, long before
    return {
        "450 noisy errors that fall from 95 to 60 %": falling,
        "200 errors of exactly 80 %": torch.full((200,), 80.0),
        "100 errors each of 95, 75 and 40 %": torch.tensor([95.0, 75.0, 40.0]).repeat_interleave(100),
        "60 errors of 10 %": torch.full((60,), 10.0),
        "100 errors of 70 %": torch.full((100,), 70.0),
        "100 errors of 10 %": torch.full((100,), 10.0),
        "100 errors of 0.5 %": torch.full((100,), 0.5),
        "60 errors of 95 % and 40 of 50 %": torch.tensor([95.0] * 60 + [50.0] * 40),
    }


@exercise("write gate(errors): the number of steps after which the warm-up is over, or None if it never is")
def check_gate(gate) -> str:
    """gate: errors of single steps in percent (n,) -> int or None."""
    runs = training_errors()
    right = [opens(errors) for errors in runs.values()]
    found = [gate(errors.clone()) for errors in runs.values()]
    if found == right:
        return "the mean of each 100 steps, judged when they are full, strictly below 80 %."
    for mistake, gates in WRONG_GATES.items():
        expect(all(found != [wrong(errors) for errors in runs.values()] for wrong in gates), mistake)
    for what, answer, mine in zip(runs, right, found, strict=True):
        if answer is None:
            expect(mine is None, f"for {what} the gate never opens: the answer is None, and yours says {mine}")
        expect(mine == answer, f"for {what} the gate opens after {answer} steps, and yours says {mine}")


Case = tuple[int, int]  # a step, and after how many steps the gate opened


def rates(cases: list[Case], **changes) -> list[float]:
    """The learning rates by the schedule with these changes."""
    schedule = Schedule(warmup_lr=0.01, **changes)
    return [schedule.lr_at(step, step >= opened) for step, opened in cases]


def wrong_rates(cases: list[Case]) -> dict[str, list[float]]:
    """What each mistake gives instead of the rates."""
    right, twice = rates(cases), "the rate is divided by ten at each of two milestones, and you have only the one at "
    return {
        "your milestones count from the opening of the gate: they stay at 32,000 and 48,000": [
            0.01 if step < opened else Schedule().lr_at(step - opened) for step, opened in cases
        ],
        "the rate never returns to 0.1 after the warm-up": [min(value, 0.01) for value in right],
        "after the warm-up the rate is 0.1; yours has been divided by ten once too often": [
            value / 10 if step >= opened else value for (step, opened), value in zip(cases, right, strict=True)
        ],
        "there is no warm-up: before the gate opens the rate is 0.01": [Schedule().lr_at(step) for step, _ in cases],
        "your warm-up always ends after 400 steps: it ends after `opened`": rates([(step, 400) for step, _ in cases]),
        f"{twice}32,000": rates(cases, milestones=(32_000,)),
        f"{twice}48,000": rates(cases, milestones=(48_000,)),
        "at 48,000 the rate falls to 0.001, not by another factor: it is divided by ten, twice in all": (
            rates(cases, milestones=(32_000, 48_000, 48_000))
        ),
        "your milestones are one step late: step 32,000 already has the smaller rate": (
            rates(cases, milestones=(32_001, 48_001))
        ),
        "the gate opens after `opened` steps, so step number `opened`, counted from 0, is the first with 0.1": (
            rates([(step, opened + 1) for step, opened in cases])
        ),
    }


@exercise("write rate(step, opened): the learning rate of a step, the gate having opened after `opened` steps")
def check_rate(rate) -> str:
    """rate: step, opened (int) -> learning rate of step 0, 1, …"""
    later = (31_999, 32_000, 32_200, 47_999, 48_000, 48_200, 63_999)
    cases = [(s, opened) for opened in (400, 1_300) for s in (0, 399, 400, opened - 1, opened, *later)]
    right, found = rates(cases), [rate(step, opened) for step, opened in cases]
    expect(None not in found, "your function ends without a `return` for some steps")

    def same(values: list[float]) -> bool:
        return all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(found, values, strict=True))

    if not same(right):
        for mistake, values in wrong_rates(cases).items():
            expect(not same(values), mistake)
    for (step, opened), wanted, mine in zip(cases, right, found, strict=True):
        at = f"at step {step:,}, if the gate opens after {opened:,},"
        expect(math.isclose(mine, wanted, rel_tol=1e-5), f"{at} the rate is {wanted:g}, and yours is {mine:g}")
    return "0.01 until the gate opens, then 0.1, divided by ten at 32,000 and 48,000 whenever that was."
