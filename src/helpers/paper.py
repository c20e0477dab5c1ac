"""The paper's numbers, read from `data/paper/`."""

import pandas as pd

from helpers import ROOT

FOLDER = ROOT / "data" / "paper"


def load_table(name: str) -> pd.DataFrame:
    """A table by the name of its file: "table1", "table6" or "figure6". Raises FileNotFoundError for any other."""
    return pd.read_csv(FOLDER / f"{name}.csv").convert_dtypes()
