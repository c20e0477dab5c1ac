"""What a check answers, and the few things that every check needs."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch


class Verdict(NamedTuple):
    """What a check found, in a sentence to the learner."""

    state: Literal["right", "wrong", "unsolved"]
    message: str

    def __repr__(self) -> str:
        return f"{ {'right': '✓ Right', 'wrong': '✗ Not yet', 'unsolved': '· Your turn'}[self.state] }: {self.message}"


class Mistake(Exception):
    """The answer is wrong; the message names the likely mistake."""


def expect(condition: Any, mistake: str) -> None:
    """Raise Mistake unless `condition` holds."""
    if not condition:
        raise Mistake(mistake)


def exercise(task: str) -> Callable:
    """Make `function(answer) -> str` a check: its value is praise, a Mistake that it raises is what is wrong.

    `task` is what an unsolved stub is answered with: None, an Ellipsis, or code that raises NotImplementedError. Any
    other error of the learner's code is reported as such. Random numbers are seeded, and the global generator is left
    as it was.
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
                except NotImplementedError:
                    return Verdict("unsolved", task)
                except Exception as error:
                    return Verdict("wrong", f"your code stopped with {type(error).__name__}: {error}")

        return check

    return decorate


def reveal(guess: float | None, found: float, unit: str = "", digits: int = 1) -> str:
    """A prediction beside what was found: how far off it was, or that there was none."""
    answer = f"It is {found:,.{digits}f}{unit}."
    if guess is None:
        return f"{answer} You made no guess."
    return f"{answer} You guessed {guess:,.{digits}f}{unit}: off by {guess - found:+,.{digits}f}{unit}."
