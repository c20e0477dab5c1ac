"""The runs in `data/runs`, one of which may be under way: they are what their files say, and the code still does it."""

import dataclasses
import re
import shutil
from math import sqrt

import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.datasets import CIFAR10

from helpers import RUNS
from helpers.analysis import gradient_norms, norms_of_3x3
from helpers.data import Split, mean_image, normalise
from helpers.experiments import SUITES
from helpers.models import ResNet
from helpers.records import WEIGHTS, load_network, load_runs, load_series, read_about, read_rows, run_folders
from helpers.runs import progress
from helpers.train import evaluate, start

FINISHED = [folder for folder in run_folders() if read_about(folder)["finished"]]
WITH_WEIGHTS = [folder for folder in FINISHED if (folder / WEIGHTS).exists()]


def each(folders):
    return pytest.mark.parametrize("folder", folders, ids=["-".join(folder.parts[-3:]) for folder in folders])


def test_what_is_recorded_is_what_its_suite_asks_for():
    """The recorded files are older than some fields of a configuration."""
    for folder in run_folders():
        about = read_about(folder)
        asked = {(run.name, run.config.seed): run.config for run in SUITES[folder.parts[-3]].runs}
        assert about["config"] == asked[about["name"], about["seed"]], folder
        assert about["data"] == {"name": "cifar10", "md5": dict(CIFAR10.train_list + CIFAR10.test_list)}
    assert {progress(run, RUNS / "quick") for run in SUITES["quick"].runs} == {"done"}


def test_a_table_of_no_runs_has_the_columns_of_any_other(tmp_path):
    none, some = load_runs(tmp_path), load_runs()
    assert none.dtypes.to_dict() == some.dtypes.to_dict()
    assert none[none.finished].query("suite == 'paper' and depth > 56").groupby("network").step.idxmax().empty


def test_the_readme_beside_them_names_the_suites():
    named = re.findall(r"^\| `(\w+)` \|", (RUNS / "README.md").read_text(), re.MULTILINE)
    assert sorted([*named, "smoke"]) == sorted(SUITES)


def test_a_copy_of_a_run_is_no_other_seed(tmp_path):
    net = tmp_path / "quick" / "plain-20"
    shutil.copytree(RUNS / "quick" / "plain-20", net)
    whole = load_runs(tmp_path), load_series("responses.csv", tmp_path)
    for name in ("seed-0.bak", "seed-0 (1)"):
        shutil.copytree(net / "seed-0", net / name)
    for before, after in zip(whole, (load_runs(tmp_path), load_series("responses.csv", tmp_path)), strict=True):
        pd.testing.assert_frame_equal(before, after)


@each(FINISHED)
def test_a_finished_run_has_all_its_rows(folder):
    about, rows = read_about(folder), read_rows(folder)
    config = about["config"]
    steps = config.schedule.steps
    assert [row["step"] for row in rows] == list(range(config.eval_every, steps + 1, config.eval_every))
    assert about["seconds"] == pytest.approx(rows[-1]["seconds"], abs=1e-3)
    assert about["images_per_second"] == pd.Series([row["images_per_second"] for row in rows]).median()
    with torch.device("meta"):
        network = ResNet(config.spec)
    assert pd.read_csv(folder / "responses.csv").layer.tolist() == list(norms_of_3x3(network))
    weighted = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    gradients = pd.read_csv(folder / "gradients.csv").groupby("step").layer.apply(list)
    assert gradients.to_dict() == {step: weighted for step in range(0, steps + 1, steps // 4)}


@each(WITH_WEIGHTS)
def test_kept_weights_are_finite(folder):
    assert all(tensor.isfinite().all() for tensor in load_network(folder).state_dict().values())


@pytest.fixture(scope="module")
def mean(cifar):
    return mean_image(cifar.train)


@each(WITH_WEIGHTS)
def test_kept_weights_have_the_error_recorded(folder, cifar, mean):
    """On the first test images: as a sample of all, four standard deviations off at most."""
    network, recorded = load_network(folder), read_rows(folder)[-1]["test_error"]
    count = 1000 if network.spec.depth < 56 else 500
    _, error = evaluate(network, Split(*(part[:count] for part in cifar.test)), mean)
    assert abs(error - recorded) < 4 * sqrt(recorded * (100 - recorded) / count)


def test_a_net_begins_with_the_weights_that_it_was_recorded_with(cifar, mean):
    """They and the first images give the gradients of step 0."""
    folder = RUNS / "paper" / "resnet-20" / "seed-0"
    config = dataclasses.replace(read_about(folder)["config"], precision="float32", compiled=False)
    images, labels = (part[:128] for part in cifar.train)
    norms = gradient_norms(start(config, "cpu").network, normalise(images, mean), labels)
    recorded = pd.read_csv(folder / "gradients.csv").query("step == 0").set_index("layer").norm
    assert norms.to_dict() == pytest.approx(recorded.to_dict(), rel=1e-2)
