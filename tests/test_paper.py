import pytest

from helpers.paper import load_table


@pytest.mark.parametrize(
    ("table", "which", "column", "value"),
    [
        ("table1", "depth == 50", "multiply_adds", 3.8e9),
        ("table1", "depth == 152", "multiply_adds", 11.3e9),
        ("table2", "layers == 34", "plain", 28.54),
        ("table2", "layers == 34", "resnet", 25.03),
        ("table3", "shortcut == 'C'", "top1", 24.19),
        ("table3", "layers == 152", "top5", 5.71),
        ("table4", "layers == 34 and shortcut == 'B'", "top1", 21.84),
        ("table4", "layers == 101", "top5", 4.60),
        ("table5", "index == 0", "top5", 3.57),
        ("table6", "method == 'Highway' and layers == 19", "mean", 7.72),
        ("table6", "method == 'FitNet'", "test_error", 8.39),
        ("table7", "test_set == 'VOC 07'", "VGG-16", 73.2),
        ("table7", "test_set == 'VOC 12'", "ResNet-101", 73.8),
        ("table8", "metric == 'mAP@[.5,.95]'", "ResNet-101", 27.2),
        ("figure6", "network == 'plain-56'", "test_error", 13.26),
        ("figure6", "network == 'plain-56'", "train_error", 5.9),
        ("vgg", "layers == 19", "multiply_adds", 19.6e9),
    ],
)
def test_the_papers_numbers_are_the_papers(table, which, column, value):
    """Typed from the paper once more."""
    assert load_table(table).query(which)[column].tolist() == [value]
