"""What a check answers, and the few things that every check needs."""

import functools
import textwrap
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """What a check found, in a sentence to the learner."""

    state: Literal["right", "wrong", "unsolved"]
    message: str

    def __repr__(self) -> str:
        sign = {"right": "✓ Right", "wrong": "✗ Not yet", "unsolved": "· Your turn"}[self.state]
        # JupyterLab would break long lines inside words
        return textwrap.fill(f"{sign}: {self.message}", 90, subsequent_indent="  ", break_on_hyphens=False)


class Mistake(Exception):
    """The answer is wrong; the message names the likely mistake."""


def expect(condition: Any, mistake: str) -> None:
    """Raise Mistake unless `condition` holds."""
    if not condition:
        raise Mistake(mistake)


def is_same(found: Any, wanted: Tensor | list[Tensor]) -> bool:
    """Whether `found` is a tensor of the shape and, up to rounding, the values of `wanted` or of one in that list."""
    if isinstance(wanted, list):
        return any(is_same(found, one) for one in wanted)
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    return torch.allclose(found.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def match(found: Any, right: Tensor | list[Tensor], mistakes: dict[str, Tensor | list[Tensor]]) -> None:
    """Raise Mistake unless `found` is `right`: with the first key of `mistakes` whose result it is, or how it differs.

    Where there is more than one way to be right, or to make a mistake, there is a list.
    """
    if is_same(found, right):
        return
    for mistake, result in mistakes.items():
        expect(not is_same(found, result), mistake)
    one = right[0] if isinstance(right, list) else right
    hint = ": is a return missing?" if found is None else ""
    expect(isinstance(found, Tensor), f"the answer is of type {type(found).__name__}, and a tensor is wanted{hint}")
    expect(found.shape == one.shape, f"the shape is {tuple(found.shape)}, and {tuple(one.shape)} is right")
    raise Mistake("the shape is right and the values are not, and this check does not know why: begin at the formula")


def exercise(task: str) -> Callable:
    """Make `function(answer) -> str` a check: its value is praise, a Mistake that it raises is what is wrong.

    `task` is what an unsolved stub is answered with: None, an Ellipsis, or code that raises a bare
    NotImplementedError. Any other error of the learner's code is reported as such. Random numbers are seeded, and the
    global generator is left as it was.
    """

    def decorate(function: Callable[[Any], str]) -> Callable[[Any], Verdict]:
        @functools.wraps(function)
        def check(answer: Any) -> Verdict:
            if answer is None or answer is ...:
                return Verdict("unsolved", task)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    return Verdict("right", function(answer))
                except Mistake as mistake:
                    return Verdict("wrong", str(mistake))
                except Exception as error:
                    if isinstance(error, NotImplementedError) and not error.args:  # PyTorch's own has a message
                        return Verdict("unsolved", task)
                    return Verdict("wrong", f"your code stopped with {type(error).__name__}: {error}")

        return check

    return decorate


def reveal(guess: float | None, found: float, unit: str = "", digits: int = 1) -> str:
    """A prediction beside what was found: how far off it was, or that there was none."""
    answer = f"It is {found:,.{digits}f}{unit}."
    if guess is None:
        return f"{answer} You made no guess."
    if not isinstance(guess, Real):
        return f"{answer} Your guess, {guess!r}, is not a number: write one, without its unit."
    return f"{answer} You guessed {guess:,.{digits}f}{unit}: off by {guess - found:+,.{digits}f}{unit}."
