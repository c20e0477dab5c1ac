"""The paper's numbers, read from `data/paper/`."""

import pandas as pd

from helpers import ROOT

FOLDER = ROOT / "data" / "paper"


def load_table(name: str) -> pd.DataFrame:
    """A table by the name of its file, such as "table6". Raises FileNotFoundError if there is none."""
    return pd.read_csv(FOLDER / f"{name}.csv").convert_dtypes()


def residual_errors() -> pd.Series:
    """Table 6's test error of each residual net by depth, in percent; of 110 layers the mean of five runs."""
    table = load_table("table6").query("method == 'ResNet'").set_index("layers")
    return table["mean"].fillna(table.test_error).astype(float).rename("paper")


def plain_errors() -> pd.Series:
    """The test error of each plain net by depth, in percent, as read off Fig. 6."""
    table = load_table("figure6").query("network.str.startswith('plain')")
    return table.test_error.set_axis(table.network.str.removeprefix("plain-").astype(int))
