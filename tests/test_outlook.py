import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from recorded import CPU, GPU, write_run

from helpers import outlook as module
from helpers.analysis import count_cost
from helpers.experiments import Run, experiment, suite
from helpers.models import cifar_spec
from helpers.outlook import in_words, nearest, outlook, paces, record_missing
from helpers.step import StepPath

HERE = "Some CPU"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without a GPU, whose path is `CPU`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "device_name", lambda device: HERE)
    monkeypatch.setattr(module, "choose_path", lambda *asked: StepPath(**{"graph": False, **CPU}))


def tell(runs, tmp_path, suite="paper", **how):
    """The outlook's lines on runs of that suite, and what is said below them, in one line."""
    lines = outlook(runs, tmp_path / suite, recorded=tmp_path, **how)
    return lines[: len(runs)], " ".join(lines[len(runs) + 1 :])


def test_a_run_takes_its_images_at_the_rate_of_its_own_experiment(tmp_path):
    """128 x 64,000 images at 128 x 4,000 in 1,200 seconds: 19,200 seconds."""
    write_run(tmp_path, "quick", "plain-20")
    write_run(tmp_path, "quick", "resnet-20", rows=((2000, 60), (4000, 120)))
    lines, said = tell([experiment("plain-20"), experiment("resnet-20")], tmp_path)
    assert lines == [
        "plain-20 seed 0: missing    ~5.3 h, as quick/plain-20",
        "resnet-20 seed 0: missing  ~32 min, as quick/resnet-20",
    ]
    assert said.startswith("About 5.9 h in all on this machine, one run after another. This is an estimate")


def test_of_another_net_the_rate_is_scaled_by_multiply_adds(tmp_path):
    write_run(tmp_path, "quick", "plain-20")
    write_run(tmp_path, "quick", "plain-56", rows=((2000, 3600), (4000, 7200)))
    (line,), _ = tell([experiment("plain-110")], tmp_path)
    ratio = count_cost(cifar_spec(110, "plain"))["multiply_adds"] / count_cost(cifar_spec(56, "plain"))["multiply_adds"]
    assert ratio == pytest.approx(108 / 54, rel=0.03), "two convolutions more for each of 27 blocks more"
    assert line == f"plain-110 seed 0: missing    ~{7200 * 16 * ratio / 3600:.0f} h, scaled from quick/plain-56"


def test_the_nearest_net_is_the_own_experiment_then_the_likest_cost_then_the_same_kind(tmp_path):
    for name in ("plain-8", "plain-44", "resnet-44", "resnet-56-B"):
        write_run(tmp_path, "quick", name)
    known = paces(tmp_path)
    chosen = {
        name: nearest(experiment(name), known).name
        for name in ("plain-8", "plain-32", "resnet-32", "resnet-20-C", "resnet-110")
    }
    wanted = {
        "plain-8": "plain-8",
        "plain-32": "plain-44",
        "resnet-32": "resnet-44",
        "resnet-20-C": "resnet-44",
        "resnet-110": "resnet-56-B",
    }
    assert chosen == wanted
    narrow = experiment("resnet-44").config
    narrow = dataclasses.replace(narrow, spec=dataclasses.replace(narrow.spec, widths=(4, 8, 16)))
    assert nearest(Run("resnet-44", narrow), known).name == "resnet-44"


def test_a_pause_and_the_first_interval_are_no_part_of_the_rate(tmp_path):
    rows = ((1000, 500), (2000, 600), (3000, 700), (4000, 9000))
    write_run(tmp_path, "quick", "plain-20", rows=rows, errors=[10.0] * 4)
    assert paces(tmp_path)[0].rate == 1280
    write_run(tmp_path, "quick", "plain-20", rows=rows[:1], errors=[10.0], finished=False)
    assert paces(tmp_path)[0].rate == 256, "for want of another interval"


def test_a_begun_run_has_less_to_do_and_tells_its_own_rate(tmp_path):
    rows = ((8000, 1000), (16_000, 2000))
    write_run(tmp_path, "paper", "plain-20", rows=rows, steps=64_000, finished=False)
    checkpoint = tmp_path / "paper" / "plain-20" / "seed-0" / "checkpoint.safetensors"
    checkpoint.touch()
    write_run(tmp_path, "paper", "plain-32", rows=((32_000, 60), (64_000, 120)), steps=64_000)
    runs = [experiment("plain-20"), experiment("plain-32")]
    lines, said = tell(runs, tmp_path)
    assert lines == [
        "plain-20 seed 0: begun, 16,000 of 64,000 steps   ~1.7 h, as paper/plain-20",
        "plain-32 seed 0: done",
    ]
    assert said.startswith("About 1.7 h in all")
    checkpoint.unlink()
    assert tell(runs, tmp_path)[0][0] == "plain-20 seed 0: begun, 0 of 64,000 steps   ~2.2 h, as paper/plain-20"
    write_run(tmp_path, "paper", "plain-20", rows=((32_000, 60), (64_000, 120)), steps=64_000)
    assert outlook(runs, tmp_path / "paper", recorded=tmp_path) == [f"plain-{d} seed 0: done" for d in (20, 32)]


@pytest.mark.parametrize(
    ("path", "devices"),
    [
        (CPU, ["Another CPU"]),
        (GPU, ["NVIDIA H200"]),
        (CPU, [HERE, "Another CPU"]),
        ({**CPU, "precision": "float32"}, [HERE]),
        ({**CPU, "threads": 1}, [HERE]),
    ],
)
def test_what_ran_elsewhere_or_otherwise_tells_nothing(tmp_path, path, devices):
    write_run(tmp_path, "quick", "plain-20", 0, path, devices)
    lines, said = tell([experiment("plain-20"), experiment("resnet-56")], tmp_path)
    assert lines == ["plain-20 seed 0: missing   unknown", "resnet-56 seed 0: missing  unknown"]
    assert said == (
        "How long the unknown ones take cannot be said: no run is recorded on Some CPU, bfloat16, CPU threads: 2. "
        "Recording one evaluation would tell: `.venv/bin/python -m helpers suite NAME --time-limit 1`."
    )


def test_compiling_matters_on_a_gpu_alone(tmp_path, monkeypatch):
    write_run(tmp_path, "quick", "plain-20", 0, {**CPU, "compiled": True})
    assert "as quick/plain-20" in tell([experiment("plain-20")], tmp_path)[0][0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "examine", lambda kind: kind)
    monkeypatch.setattr(module, "choose_path", lambda *asked: StepPath(**{"graph": True, **GPU}))
    write_run(tmp_path, "quick", "plain-20", 0, {**GPU, "compiled": False, "threads": 64})
    (line,), said = tell([experiment("plain-20")], tmp_path)
    assert "unknown" in line and "no run is recorded on Some CPU, bfloat16, compiled." in said
    write_run(tmp_path, "quick", "plain-20", 0, {**GPU, "threads": 64})
    assert "as quick/plain-20" in tell([experiment("plain-20")], tmp_path)[0][0]


def test_runs_recorded_at_once_share_the_device(tmp_path):
    """Four at once: each is four times as slow as the device."""
    write_run(tmp_path, "quick", "plain-20")
    about = tmp_path / "quick" / "plain-20" / "seed-0" / "run.json"
    alone = tell([experiment("plain-20")], tmp_path)[0][0]
    contents = json.loads(about.read_text())
    about.write_text(json.dumps(contents | {"stretches": [s | {"at_once": 4} for s in contents["stretches"]]}))
    (line,), _ = tell([experiment("plain-20")], tmp_path)
    assert "~5.3 h" in alone and "~1.3 h" in line


def test_each_interval_is_reckoned_with_the_runs_that_shared_the_device_then(tmp_path):
    """Begun at once with three others, ended alone and four times as fast."""
    rows = ((1000, 400), (2000, 800), (3000, 1200), (4000, 1300))
    folder = write_run(tmp_path, "quick", "plain-20", rows=rows, errors=(12.0,) * 4)
    about = json.loads((folder / "run.json").read_text())
    first = about["stretches"][0] | {"at_once": 4}
    about["stretches"] = [first, first | {"from_step": 3000, "at_once": 1}]
    (folder / "run.json").write_text(json.dumps(about))
    assert paces(tmp_path)[0].rate == 128 * 1000 / 100


def test_a_run_goes_on_where_it_was_begun(tmp_path):
    write_run(tmp_path, "quick", "plain-20")
    write_run(tmp_path, "paper", "plain-20", 0, {**CPU, "threads": 1}, steps=64_000, finished=False)
    (tmp_path / "paper" / "plain-20" / "seed-0" / "checkpoint.safetensors").touch()
    lines, _ = tell([experiment("plain-20"), experiment("plain-20", seed=1)], tmp_path)
    assert [line.split(", ")[-1] for line in lines] == ["as paper/plain-20", "as quick/plain-20"]
    write_run(tmp_path, "paper", "plain-20", 0, GPU, ["NVIDIA H200"], steps=64_000, finished=False)
    lines, said = tell([experiment("plain-20")], tmp_path)
    assert "unknown" in lines[0] and "a GPU (there is none here), bfloat16" in said


def test_a_folder_with_another_configuration_waits_for_a_person(tmp_path):
    write_run(tmp_path, "paper", "plain-20", steps=4000)
    lines = outlook([experiment("plain-20")], tmp_path / "paper", recorded=tmp_path)
    assert len(lines) == 1 and lines[0].startswith("plain-20 seed 0: not done: another configuration")


@pytest.mark.parametrize(("file", "said"), [("run.json", "not done: "), ("metrics.jsonl", "done")])
def test_a_damaged_folder_keeps_nobody_from_an_estimate_of_the_others(tmp_path, file, said):
    write_run(tmp_path, "quick", "plain-20")
    (write_run(tmp_path, "paper", "resnet-20", steps=64_000) / file).write_text("{\n")
    lines, _ = tell([experiment("resnet-20"), experiment("plain-20")], tmp_path)
    assert lines[0].startswith(f"resnet-20 seed 0: {said}")
    assert lines[1] == "plain-20 seed 0: missing   ~5.3 h, as quick/plain-20"


def test_runs_in_a_folder_elsewhere_tell_their_rate_too(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_run(elsewhere, "mine", "plain-20", finished=False)
    write_run(elsewhere, "another", "plain-20", rows=((2000, 1), (4000, 2)))
    lines = outlook([experiment("plain-20", seed=1)], elsewhere / "mine", recorded=tmp_path / "runs")
    assert lines[0] == "plain-20 seed 1: missing   ~5.3 h, as mine/plain-20"


def test_where_nothing_is_recorded_a_net_trained_just_now_will_do(tmp_path):
    live = (cifar_spec(20), 128 * 4000 / 1200)
    (line,), _ = tell([experiment("resnet-20")], tmp_path, live=live)
    assert line == "resnet-20 seed 0: missing   ~5.3 h, scaled from the net trained above"
    write_run(tmp_path, "quick", "resnet-20", rows=((2000, 60), (4000, 120)))
    assert "as quick/resnet-20" in tell([experiment("resnet-20")], tmp_path, live=live)[0][0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "1 min"), (90 * 60, "1.5 h"), (59 * 60, "59 min"), (35_000, "9.7 h"), (36_000, "10 h"), (5e6, "1,389 h")],
)
def test_times_are_as_exact_as_an_estimate_is(seconds, words):
    assert in_words(seconds) == words


def test_missing_runs_are_recorded_once_all_hours_were_said(tmp_path, monkeypatch, capsys):
    asked, said = [], []

    def record_suite(runs, directory, data, half_weights):
        asked.append(([(run.name, run.config.seed) for run in runs], directory, data.name, half_weights))
        said.append(capsys.readouterr().out)

    monkeypatch.setattr(module, "record_suite", record_suite)
    monkeypatch.setattr(module, "load_data", lambda name: SimpleNamespace(name=name))
    wanted = {"smoke": [], "options": ["resnet-20-B"]}
    record_missing(wanted, [0], (cifar_spec(20), 100.0), tmp_path)
    assert asked == [
        (
            [(name, 0) for name in ("plain-8", "plain-20", "resnet-8", "resnet-20")],
            tmp_path / "smoke",
            "synthetic",
            True,
        ),
        ([("resnet-20-B", 0)], tmp_path / "options", "cifar10", True),
    ]
    smoke, options = said[0].split("suite options: projection shortcuts: options B and C\n")
    assert smoke.startswith("suite smoke: seconds, to see that everything works\nplain-8 seed 0: missing")
    assert options.startswith("resnet-20-B seed 0")
    assert said[0].count("About") == 2 and not said[1]
    record_missing({"options": ["resnet-20-C"]}, live=(cifar_spec(20), 100.0), directory=tmp_path)
    assert asked[-1][0] == [("resnet-20-C", seed) for seed in range(3)], "all of the suite's seeds"


def test_nothing_is_loaded_or_recorded_where_nothing_is_missing(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "paper", "plain-20", steps=64_000, rows=((32_000, 60), (64_000, 120)))
    monkeypatch.setattr(module, "load_data", None)
    monkeypatch.setattr(module, "record_suite", None)
    record_missing({"paper": ["plain-20"]}, [0], directory=tmp_path)
    assert capsys.readouterr().out == f"suite paper: {suite('paper').about}\nplain-20 seed 0: done\n\n"
