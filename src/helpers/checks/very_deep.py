"""Notebook 07: the warm-up's gate and the schedule behind it (Sec. 4.2)."""

import torch
from torch import Tensor

from helpers.checks.verdict import Mistake, exercise, expect
from helpers.train import Schedule

WINDOW = 100


def opens(errors: Tensor, threshold: float = 80, window: int = WINDOW) -> int | None:
    """The step at which the first of the consecutive windows with a mean error below `threshold` ends."""
    means = errors[: len(errors) // window * window].reshape(-1, window).mean(1)
    below = (means < threshold).nonzero()
    return (int(below[0]) + 1) * window if len(below) else None


@exercise("write gate(errors): the number of steps after which the warm-up is over, or None if it never is")
def check_gate(gate) -> str:
    """gate: errors of single steps in percent (n,) -> int or None."""
    noise = 15 * torch.randn(450)
    falling = torch.linspace(95, 60, 450) + noise - noise.mean()
    falling[130:136] = 70.0  # a few lucky batches, long before
    level = torch.full((200,), 80.0)
    runs = {"falling": falling, "level": level, "short": torch.full((60,), 10.0)}
    for name, errors in runs.items():
        found, right = gate(errors.clone()), opens(errors)
        if found == right:
            continue
        first = int((errors < 80).nonzero()[0]) if (errors < 80).any() else None
        sliding = errors.unfold(0, WINDOW, 1).mean(1) if len(errors) >= WINDOW else errors[:0]
        slid = (sliding < 80).nonzero()
        mistakes = {
            "one lucky batch opens your gate: take the mean of 100 steps": first is not None
            and found in (first, first + 1),
            "that is the number of the window: multiply by 100 to have steps": right and found == right // WINDOW,
            "your gate opens where the window begins; its mean is known when the window ends": right
            and found in (right - WINDOW, right // WINDOW - 1),
            "your windows overlap: look after every 100 steps, at those 100": len(slid) > 0
            and found in (int(slid[0]) + WINDOW, int(slid[0])),
            "the mean has to fall below 80 %, and at exactly 80 % your gate opens": name == "level",
            "a window is only judged when it is full: after 60 steps nothing is decided": name == "short",
            "your gate opens when the error is above 80 %: it should be below": found == opens(-errors, -80),
            "80 % is an error; your gate waits for an accuracy of 80 %": found == opens(errors, 20),
            "your gate never opens, and the mean of 100 steps does fall below 80 %": found is None,
        }
        for mistake, made in mistakes.items():
            expect(not made, mistake)
        raise Mistake(
            f"for errors that fall from 95 to 60 % the gate opens after {right} steps, and yours says {found}"
        )
    return "the mean of each 100 steps, judged when they are full, strictly below 80 %."


@exercise("write rate(step, opened): the learning rate of a step, the gate having opened after `opened` steps")
def check_rate(rate) -> str:
    """rate: step, opened (int) -> learning rate of step 0, 1, …"""
    schedule, opened = Schedule(warmup_lr=0.01), 400
    steps = [0, opened - 1, opened, 31_999, 32_000, 32_200, 47_999, 48_000, 48_200, 63_999]
    right = [schedule.lr_at(step, step >= opened) for step in steps]
    found = [float(rate(step, opened)) for step in steps]

    def same(values: list[float]) -> bool:
        return all(abs(a - b) < 1e-9 for a, b in zip(found, values, strict=True))

    def changed(**changes) -> list[float]:
        return [Schedule(warmup_lr=0.01, **changes).lr_at(step, step >= opened) for step in steps]

    late = [schedule.lr_at(max(step - opened, 0), step >= opened) for step in steps]
    mistakes = {
        "your milestones count from the opening of the gate: they stay at 32,000 and 48,000": late,
        "the rate never returns to 0.1 after the warm-up": [min(value, 0.01) for value in right],
        "after the warm-up the rate is 0.1; yours has been divided by ten once too often": [
            value / 10 if step >= opened else value for step, value in zip(steps, right, strict=True)
        ],
        "there is no warm-up: before the gate opens the rate is 0.01": [schedule.lr_at(step) for step in steps],
        "the rate is divided by ten at each of two milestones, and you have only the one at 32,000": changed(
            milestones=(32_000,)
        ),
        "the rate is divided by ten at each of two milestones, and you have only the one at 48,000": changed(
            milestones=(48_000,)
        ),
        "at 48,000 the rate falls to 0.001, not by another factor: it is divided by ten, twice in all": changed(
            milestones=(32_000, 48_000, 48_000)
        ),
        "your milestones are one step late: step 32,000 already has the smaller rate": changed(
            milestones=(32_001, 48_001)
        ),
        "the gate opens after `opened` steps, so step number `opened`, counted from 0, is the first with 0.1": [
            0.01 if step == opened else value for step, value in zip(steps, right, strict=True)
        ],
    }
    if not same(right):
        for mistake, values in mistakes.items():
            expect(not same(values), mistake)
        wrong = next(i for i, value in enumerate(found) if abs(value - right[i]) > 1e-9)
        raise Mistake(f"at step {steps[wrong]:,} the rate is {right[wrong]:g}, and yours is {found[wrong]:g}")
    return "0.01 until the gate opens, then 0.1, divided by ten at 32,000 and 48,000 whenever that was."
