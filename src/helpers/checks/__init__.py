"""A check for every exercise of the course: it says what is right, or names the likely mistake.

`check_<exercise>(your_answer)` returns a `Verdict`, which a notebook shows. A module for each chapter.
"""

from helpers.checks.residual_block import check_block, check_gradient_by_hand, check_one_convolution
from helpers.checks.verdict import Verdict, reveal

__all__ = ["Verdict", "check_block", "check_gradient_by_hand", "check_one_convolution", "reveal"]
