"""What the tests of all checks need: wrong answers by what goes wrong in them, and what is to be said of each."""

import pytest


def parametrised(mutants):
    """A test's arguments from {what goes wrong: (mutant, phrase of the message)}."""
    return pytest.mark.parametrize(("mutant", "phrase"), mutants.values(), ids=mutants)


def assert_named(verdict, phrase):
    assert verdict.state == "wrong" and phrase in verdict.message, verdict


def stub(*_):
    raise NotImplementedError
