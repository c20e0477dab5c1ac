import pytest
import torch

from helpers import checks
from helpers.checks import Verdict, reveal
from helpers.checks.verdict import Mistake, exercise, expect


@exercise("write double(x)")
def check_double(double):
    """2 x"""
    torch.rand(3)
    expect(double(3) == 6, "double(3) should be 6")
    return "twice as much"


def stub(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, ..., stub])
def test_an_unsolved_stub_says_so_and_stops_nothing(answer):
    assert check_double(answer) == Verdict("unsolved", "write double(x)")


def test_right_wrong_and_broken_answers_are_told_apart():
    assert repr(check_double(lambda x: 2 * x)) == "✓ Right: twice as much"
    assert repr(check_double(lambda x: x**2)) == "✗ Not yet: double(3) should be 6"
    assert repr(Verdict("wrong", "word " * 40)).count("\n") == 2, "lines are broken between words"
    assert check_double(lambda: 6).state == "wrong"
    assert "ZeroDivisionError" in check_double(lambda x: x / 0).message
    with pytest.raises(Mistake):
        expect([], "empty")


def test_a_check_leaves_the_generator_as_it_was():
    state = torch.get_rng_state()
    check_double(lambda x: torch.rand(1) and 2 * x)
    assert torch.equal(state, torch.get_rng_state())


def test_a_prediction_is_told_how_far_off_it_was():
    assert reveal(3, 7.44, " points") == "It is 7.4 points. You guessed 3.0 points: off by -4.4 points."
    assert reveal(None, 0.5, "", 2) == "It is 0.50. You made no guess."


@pytest.mark.parametrize("guess", ["3 %", (2, 3)])
def test_a_prediction_that_is_no_number_stops_nothing(guess):
    assert f"It is 7.4 %. Your guess, {guess!r}, is not a number" in reveal(guess, 7.44, " %")


@pytest.mark.parametrize("name", sorted(name for name in dir(checks) if name.startswith("check_")))
def test_every_exercise_left_as_its_stub_is_unsolved(name):
    def stub(*_):
        raise NotImplementedError

    assert getattr(checks, name)(stub).state == "unsolved"


def test_what_pytorch_has_not_implemented_is_no_stub():
    class Misspelled(torch.nn.Module):
        def __init__(self, _):
            super().__init__()

        def foward(self, x):
            return x

    verdict = checks.check_build(Misspelled)
    assert verdict.state == "wrong" and "forward" in verdict.message
