"""What the tests of all checks need: wrong answers by what goes wrong in them, and what is to be said of each."""

import pytest


def parametrised(mutants):
    """A test's arguments from {what goes wrong: (mutant, phrase of the message)}, or a list whose phrases say that."""
    if not isinstance(mutants, dict):
        return pytest.mark.parametrize(("mutant", "phrase"), mutants, ids=[phrase for _, phrase in mutants])
    return pytest.mark.parametrize(("mutant", "phrase"), mutants.values(), ids=mutants)


def assert_named(verdict, phrase):
    assert verdict.state == "wrong" and phrase in verdict.message, verdict
