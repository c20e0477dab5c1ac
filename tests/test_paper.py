import pytest

from helpers.paper import load_table


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("figure6", "test_error", [9.70, 10.11, 11.48, 13.26, 8.79, 7.50, 7.17, 7.00, 6.56]),
        ("figure6", "train_error", [1.4, 1.15, 3.2, 5.9]),
        ("table1", "multiply_adds", [1.8e9, 3.6e9, 3.8e9, 7.6e9, 11.3e9]),
        ("table2", "plain", [27.94, 28.54]),
        ("table2", "resnet", [27.88, 25.03]),
        ("table3", "top1", [28.07, 24.27, 28.54, 25.03, 24.52, 24.19, 22.85, 21.75, 21.43]),
        ("table3", "top5", [9.33, 9.15, 7.38, 10.02, 7.76, 7.46, 7.40, 6.71, 6.05, 5.71]),
        ("table4", "top1", [21.84, 21.53, 20.74, 19.87, 19.38]),
        ("table4", "top5", [5.71, 5.60, 5.25, 4.60, 4.49]),
        ("table5", "top5", [3.57]),
        ("table6", "parameters", [2.5e6, 2.3e6, 1.25e6, 0.27e6, 0.46e6, 0.66e6, 0.85e6, 1.7e6, 19.4e6]),
        ("table6", "test_error", [9.38, 8.81, 8.22, 8.39, 7.54, 8.80, 8.75, 7.51, 7.17, 6.97, 6.43, 7.93]),
        ("table6", "mean", [7.72, 6.61]),
        ("table6", "std", [0.16, 0.16]),
        ("table7", "VGG-16", [73.2, 70.4]),
        ("table7", "ResNet-101", [76.4, 73.8]),
        ("table8", "VGG-16", [41.5, 21.2]),
        ("table8", "ResNet-101", [48.4, 27.2]),
        ("vgg", "multiply_adds", [15.3e9, 19.6e9]),
        ("identity_mappings", "error", [6.61, 12.35, 12.22, 8.17, 7.84, 6.71, 6.37, 9.90, 8.91, 7.61, 4.92]),
    ],
)
def test_every_number_of_a_column_is_the_papers(table, column, values):
    """Typed from the paper once more, from top to bottom; cells that it leaves empty left out."""
    assert load_table(table)[column].dropna().tolist() == values
