"""The paper's numbers, read from `data/paper/`."""

import pandas as pd

from helpers import ROOT

FOLDER = ROOT / "data" / "paper"


def load_table(name: str) -> pd.DataFrame:
    """A table by the name of its file, such as "table6". Raises FileNotFoundError if there is none."""
    return pd.read_csv(FOLDER / f"{name}.csv").convert_dtypes()
