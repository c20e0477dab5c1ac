import importlib.util
import json
import sys

import pytest

from helpers import ROOT
from helpers.experiments import EXPERIMENTS
from helpers.models import Spec

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """A benchmark's module, by name."""

    def load(name):
        monkeypatch.syspath_prepend(FOLDER)
        specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("common", None)


def test_the_cpus_page_says_what_was_measured(script):
    cpu = script("cpu")
    results = json.loads((FOLDER / "cpu.json").read_text())
    assert (FOLDER / "cpu.md").read_text() == cpu.report(results), "write the page anew from cpu.json"
    assert {(row["depth"], row["subject"]) for row in results["rows"]} == {
        (d, s) for d in cpu.STEPS for s in cpu.SUBJECTS
    }


def test_the_gpus_page_says_what_was_measured(script):
    gpu = script("gpu")
    if not (FOLDER / "gpu.json").exists():
        pytest.skip("not yet measured on a GPU")
    assert (FOLDER / "gpu.md").read_text() == gpu.report(json.loads((FOLDER / "gpu.json").read_text()))


def test_the_gpus_page_can_be_written(script):
    """From made-up figures: a usual loop of 8 ms with its best number of workers, a step of ours of 0.5 ms."""
    gpu = script("gpu")
    usual = {"step_ms": {"usual, 4 workers": 9.0, "usual, 8 workers": 8.0}, "memory_gb": 2.0}
    ours = {"step_ms": 0.5, "start_up_s": 30.0, "memory_gb": 1.5}
    results = {
        "machine": gpu.machine() | {"device": "a GPU"},
        "ceilings": {"bytes_per_s": 4e12, "operations_per_s": 8e14},
        "usual": dict.fromkeys(gpu.NETS, usual),
        "ours": {name: dict.fromkeys(gpu.MEASURES, ours) for name in gpu.NETS},
        "streams": {"resnet-20": {"step_ms": {"2": 0.25}, "memory_gb": 1.0}},
        "1202": ours,
    }
    page = gpu.report(results)
    row = next(line for line in page.splitlines() if line.startswith("| resnet-20"))
    assert "| 16,000 (8 workers) | 256,000 | 16.0 | 0.50 |" in row
    assert "| compiled, graph, 2 runs at once | 0.25 | 512,000 | 32.0 |" in page


def test_the_floor_counts_every_map_of_a_net(script):
    """Written out for one block of four channels on maps of 32x32: the stem's layer and the block's two."""
    one_map = 4 * 32 * 32
    count = script("gpu").count_bytes
    assert count(Spec((1,), (4,), shortcut="plain"), batch=1) == 2 * 16 * 3 * one_map
    assert count(Spec((1,), (4,)), batch=1) == 2 * (16 * 3 + 5) * one_map
    assert count(EXPERIMENTS["resnet-20"].spec) == pytest.approx(0.86e9, rel=0.1)


def test_a_benchmark_that_broke_off_goes_on(script, monkeypatch, tmp_path):
    gpu, measured = script("gpu"), []

    def measure(_script, *options, cache):
        if len(measured) == 5:
            measured.append("broke off")
            raise SystemExit
        measured.append(options)
        return {"step_ms": 1.0}

    monkeypatch.setattr(gpu, "measure_apart", measure)
    with pytest.raises(SystemExit):
        gpu.measure_all("cpu", tmp_path)
    results = gpu.measure_all("cpu", tmp_path)
    assert set(results["ours"]) == set(results["usual"]) == set(gpu.NETS)
    assert len(measured) == len(set(measured)), "what was measured is not measured again"


def test_our_side_of_the_gpus_benchmark_runs_without_one(script, monkeypatch, tiny_data, tiny_config):
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "load_data", lambda _: tiny_data)
    monkeypatch.setitem(EXPERIMENTS, "tiny", tiny_config)
    monkeypatch.setattr(gpu, "STREAMS", (2,))
    assert gpu.measure_ours("tiny", "cpu", steps=2, rounds=1)["step_ms"] > 0
    assert gpu.measure_streams("tiny", "cpu", steps=2, rounds=1)["step_ms"]["2"] > 0
    assert gpu.measure_ceilings("cpu")["bytes_per_s"] > 0
