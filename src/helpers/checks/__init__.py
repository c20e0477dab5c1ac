"""A check for every exercise of the course: it says what is right, or names the likely mistake.

`check_<exercise>(your_answer)` returns a `Verdict`, which a notebook shows. A module for each chapter.
"""

from helpers.checks.verdict import Verdict, reveal

__all__ = ["Verdict", "reveal"]
