"""A notebook course on, and a reproduction of, Deep Residual Learning for Image Recognition (He et al. 2015)."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout: notebooks run in a folder of their own
RUNS = ROOT / "data" / "runs"
