import pytest
import torch
from mutants import assert_named, parametrised

from helpers import checks


def gate(errors, window=100, threshold=80, take=torch.mean):
    for end in range(window, len(errors) + 1, window):
        if take(errors[end - window : end]) < threshold:
            return end
    return None


def looped(errors):
    total = 0.0
    for step, error in enumerate(errors.tolist(), 1):
        total += error
        if step % 100 == 0:
            if total < 8000:
                return step
            total = 0.0


def sliding(errors):
    return next((end for end in range(100, len(errors) + 1) if errors[end - 100 : end].mean() < 80), None)


def at_most(errors):
    return next((end for end in range(100, len(errors) + 1, 100) if errors[end - 100 : end].mean() <= 80), None)


def part(errors):
    return next((min(end, len(errors)) for end in range(100, 600, 100) if errors[end - 100 : end].mean() < 80), None)


def lucky(errors):
    return next((step for step, error in enumerate(errors.tolist(), 1) if error < 80), None)


def above(errors):
    return next((end for end in range(100, len(errors) + 1, 100) if errors[end - 100 : end].mean() > 80), None)


def so_far(errors):
    return next((end for end in range(100, len(errors) + 1, 100) if errors[:end].mean() < 80), None)


def latest(errors):
    return next((end for end in range(len(errors) // 100 * 100, 0, -100) if errors[end - 100 : end].mean() < 80), None)


def reshaped(errors):
    means = errors[: len(errors) // 100 * 100].reshape(-1, 100).mean(1)
    return 100 * (means < 80).nonzero().flatten()[0] + 100 if (means < 80).any() else None


@pytest.mark.parametrize("answer", [gate, looped, reshaped])
def test_a_right_gate_is_accepted(answer):
    assert checks.check_gate(answer).state == "right"


@parametrised(
    [
        (lucky, "one lucky batch"),
        (sliding, "overlap"),
        (at_most, "exactly 80 %"),
        (part, "only judged when it is full"),
        (above, "should be below"),
        (lambda errors: gate(errors, threshold=20), "accuracy of 80 %"),
        (lambda errors: gate(errors) and gate(errors) // 100, "number of the window"),
        (lambda errors: gate(errors) and gate(errors) - 100, "when the window ends"),
        (lambda errors: gate(errors, take=torch.median), "median"),
        (lambda errors: gate(errors, take=lambda hundred: hundred[-1]), "a single error"),
        (lambda errors: gate(errors, take=torch.min), "a single error"),
        (lambda errors: gate(errors, take=torch.max), "all 100 errors"),
        (lambda errors: gate(errors, threshold=0.8), "not with 0.8"),
        (lambda errors: gate(errors[:-1]), "leaves out the last full hundred"),
        (lambda errors: gate(errors[:100]), "the first hundred only"),
        (so_far, "all errors so far"),
        (latest, "the first is wanted"),
        (lambda errors: print(gate(errors)), "does it return"),
        (lambda errors: gate(errors) or len(errors), "never opens: the answer is None, and yours says 200"),
        (lambda errors: gate(errors) or 0, "never opens: the answer is None, and yours says 0"),
        (lambda errors: -1, "the gate opens after"),
    ]
)
def test_a_wrong_gate_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_gate(mutant), phrase)


def rate(step, opened, milestones=(32_000, 48_000), base=0.1):
    return 0.01 if step < opened else base / 10 ** sum(step >= milestone for milestone in milestones)


def in_words(step, opened):
    if step < opened:
        return 0.01
    return 0.1 if step < 32_000 else 0.01 if step < 48_000 else 0.001


@pytest.mark.parametrize("answer", [rate, in_words, lambda step, opened: torch.tensor(rate(step, opened))])
def test_a_right_rate_is_accepted(answer):
    assert checks.check_rate(answer).state == "right"


@parametrised(
    [
        (
            lambda step, opened: rate(max(step - opened, 0), 0) if step >= opened else 0.01,
            "from the opening of the gate",
        ),
        (lambda step, opened: min(rate(step, opened), 0.01), "never returns"),
        (lambda step, opened: rate(step, opened, base=0.01), "too often"),
        (lambda step, opened: rate(step, 0), "there is no warm-up"),
        (lambda step, opened: rate(step, opened, (32_000,)), "only the one at 32,000"),
        (lambda step, opened: rate(step, opened, (48_000,)), "only the one at 48,000"),
        (lambda step, opened: rate(step, opened, (32_000, 48_000, 48_000)), "twice in all"),
        (lambda step, opened: rate(step, opened, (32_001, 48_001)), "one step late"),
        (lambda step, opened: rate(step, opened + 1), "first with 0.1"),
        (lambda step, opened: rate(step, 400), "always ends after 400 steps"),
        (lambda step, opened: 0.01 if step < opened else None, "without a `return`"),
        (lambda step, opened: 0.1, "the rate is 0.01, and yours is 0.1"),
    ]
)
def test_a_wrong_rate_is_told_its_mistake(mutant, phrase):
    assert_named(checks.check_rate(mutant), phrase)
