import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pandas as pd
import pytest
import safetensors.torch
import torch
from filelock import FileLock
from recorded import contents

from helpers import runs
from helpers.analysis import gradient_norms, layer_responses
from helpers.checkpoint import CheckpointError, load
from helpers.config import Schedule
from helpers.data import Data, mean_image, normalise
from helpers.experiments import EXPERIMENTS, SUITES, UnknownName, select, suite
from helpers.runs import RunError, load_network, load_runs, load_series, progress, record, record_suite
from helpers.step import has_compiler
from helpers.train import NotFinite, evaluate, start


def test_a_run_folder_has_what_the_readme_says(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data)
    assert folder == tmp_path / "tiny" / "seed-0"
    files = {"run.json", "metrics.jsonl", "responses.csv", "gradients.csv", "weights.safetensors", "run.lock"}
    assert {path.name for path in folder.iterdir()} == files
    about = json.loads((folder / "run.json").read_text())
    assert about["finished"] and about["config"] == tiny_config.as_dict() and about["data"]["md5"] == tiny_data.md5
    assert about["stretches"][0]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"device", "precision", "compiled", "graph", "threads", "why"} == set(about["path"])
    gradients = pd.read_csv(folder / "gradients.csv")
    assert gradients.step.unique().tolist() == [0, 20, 30, 50, 60], "the start, and where a quarter was passed"
    assert (folder / "metrics.jsonl").read_text().count("\n") == 6


def test_a_finished_run_is_left_alone(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    record("tiny", tiny_config, tmp_path, data=tiny_data)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("half", [False, True])
def test_the_network_can_be_loaded_and_has_the_error_recorded(tmp_path, tiny_config, tiny_data, half):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, half_weights=half)
    loss, error = evaluate(load_network(folder), tiny_data.test, mean_image(tiny_data.train))
    row = load_runs(tmp_path.parent, tmp_path.name).iloc[-1]
    assert loss == pytest.approx(row.test_loss, rel=1e-2 if half else 1e-6)
    assert half or error == row.test_error
    stored = safetensors.torch.load_file(folder / "weights.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.half if half else torch.float32}
    assert not any(tensor.dtype == torch.half for tensor in stored.values() if tensor.ndim < 2), "1e5 would be infinite"


def test_responses_and_gradients_are_those_of_the_recorded_network(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data)
    network, mean = load_network(folder), mean_image(tiny_data.train)
    assert not network.training
    found = pd.read_csv(folder / "responses.csv", index_col="layer")["std"]
    expected = layer_responses(network, normalise(tiny_data.test.images, mean))
    assert found.to_dict() == pytest.approx(expected.to_dict(), rel=1e-4)
    table = pd.read_csv(folder / "gradients.csv")
    for step, net in ((0, start(tiny_config).network), (60, network)):
        norms = gradient_norms(net, normalise(tiny_data.train.images, mean), tiny_data.train.labels)
        recorded = table[table.step == step].set_index("layer")["norm"]
        assert recorded.to_dict() == pytest.approx(norms.to_dict(), rel=1e-3)


def recording(directory, config, data):
    record("tiny", config, directory, data=data)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.skipif(not has_compiler("cpu"), reason="no compiler"))]
)
def test_killed_at_random_moments_it_ends_as_the_uninterrupted_run(tmp_path, tiny_config, tiny_data, compiled):
    """Real processes and SIGKILL; the gate's counts and the running sums have to survive too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.runs", "torch._inductor.compile_fx"])
    schedule = Schedule(steps=600, milestones=(400, 500), lr=0.05, warmup_lr=0.01)
    precision = "bfloat16" if compiled else "float32"
    config = dataclasses.replace(tiny_config, schedule=schedule, eval_every=7, compiled=compiled, precision=precision)

    def begin(directory):
        process = context.Process(target=recording, args=(directory, config, tiny_data))
        process.start()
        return process

    rows = tmp_path / "killed" / "tiny" / "seed-0" / "metrics.jsonl"

    def recorded():
        return rows.read_text().count("\n") if rows.exists() else 0

    whole = begin(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    chance, killed = random.Random(0), 0
    for kill in range(6):
        process, before = begin(tmp_path / "killed"), recorded()
        latest = time.monotonic() + (600 if kill % 2 == 0 else chance.uniform(0, 1))  # amid training, or at the start
        while process.is_alive() and recorded() < before + 3 and time.monotonic() < latest:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 4, "the run ended before it was killed often enough"
    last = begin(tmp_path / "killed")
    last.join()
    stretches = json.loads((rows.parent / "run.json").read_text())["stretches"]
    assert len(stretches) >= 4 and stretches[-1]["from_step"] > 0
    assert contents(tmp_path / "whole" / "tiny" / "seed-0") == contents(rows.parent)


def test_a_time_limit_stops_behind_a_checkpoint(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path / "a", data=tiny_data, time_limit=0)
    assert load(folder / runs.CHECKPOINT).step == 10
    assert not json.loads((folder / "run.json").read_text())["finished"]
    assert progress(runs.Run("tiny", tiny_config), tmp_path / "a") == "begun, 10 of 60 steps"
    record("tiny", tiny_config, tmp_path / "a", data=tiny_data)
    assert contents(folder) == contents(record("tiny", tiny_config, tmp_path / "b", data=tiny_data))


def test_ctrl_c_leaves_a_resumable_run(tmp_path, tiny_config, tiny_data, monkeypatch):
    saved = runs.save

    def interrupt(state, path):
        saved(state, path)
        if state.step == 30:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "save", interrupt)
        record("tiny", tiny_config, tmp_path / "a", data=tiny_data)
    folder = record("tiny", tiny_config, tmp_path / "a", data=tiny_data)
    assert contents(folder) == contents(record("tiny", tiny_config, tmp_path / "b", data=tiny_data))


def test_rows_past_the_checkpoint_and_a_torn_line_are_dropped(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lr": 0.1}\n{"step": 30, "l')
    assert load_runs(tmp_path.parent, tmp_path.name).step.tolist() == [10, 20], "readers drop the torn line"
    record("tiny", tiny_config, tmp_path, data=tiny_data)
    assert load_runs(tmp_path.parent, tmp_path.name).step.tolist() == [10, 20, 30, 40, 50, 60]


def test_a_second_process_is_refused(tmp_path, tiny_config, tiny_data):
    folder = tmp_path / "tiny" / "seed-0"
    folder.mkdir(parents=True)
    with FileLock(folder / "run.lock"), pytest.raises(RunError, match="another process is recording into"):
        record("tiny", tiny_config, tmp_path, data=tiny_data)


def test_a_folder_with_another_configuration_or_data_is_refused_and_named(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)
    other = dataclasses.replace(tiny_config, momentum=0.5)
    with pytest.raises(RunError, match=rf"{folder} holds another run \(momentum 0.9 instead of 0.5\)"):
        record("tiny", other, tmp_path, data=tiny_data)
    with pytest.raises(RunError, match="other data"):
        record("tiny", tiny_config, tmp_path, data=Data("tiny", tiny_data.train, tiny_data.test, {"train": "2"}))


def test_a_checkpoint_of_another_run_is_refused(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)
    other = record("tiny", dataclasses.replace(tiny_config, seed=1), tmp_path, data=tiny_data, time_limit=0)
    (other / runs.CHECKPOINT).replace(folder / runs.CHECKPOINT)
    with pytest.raises(CheckpointError, match="another configuration"):
        record("tiny", tiny_config, tmp_path, data=tiny_data)


def test_a_loss_that_is_not_finite_keeps_what_was_recorded(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)
    state = load(folder / runs.CHECKPOINT)
    with torch.no_grad():
        state.network.fc.weight.fill_(torch.inf)
    runs.save(state, folder / runs.CHECKPOINT)
    with pytest.raises(NotFinite, match="step 10"):
        record("tiny", tiny_config, tmp_path, data=tiny_data)
    assert load_runs(tmp_path.parent, tmp_path.name).step.tolist() == [10]


def test_runs_load_as_one_tidy_table(tmp_path, tiny_config, tiny_data):
    for seed in (0, 1):
        record("tiny", dataclasses.replace(tiny_config, seed=seed), tmp_path / "suite", data=tiny_data)
    table = load_runs(tmp_path, "suite")
    columns = ["suite", "network", "depth", "kind", "shortcut", "seed", "data", "precision", "steps", "finished"]
    assert set(columns) < set(table.columns) and len(table) == 12
    assert table.groupby("seed").step.max().to_dict() == {0: 60, 1: 60}
    assert (table.kind.unique(), table.depth.unique()) == (["residual"], [4])
    responses = load_series("responses.csv", tmp_path)
    assert responses.columns.tolist() == ["suite", "network", "seed", "layer", "std"]
    assert responses.groupby("seed").layer.apply(list)[1] == ["stem.0", "blocks.0.conv1", "blocks.0.conv2"]
    assert load_runs(tmp_path, "nothing").empty


def test_a_suite_does_what_is_missing_and_nothing_twice(tmp_path, tiny_config, tiny_data):
    chosen = [runs.Run(name, dataclasses.replace(tiny_config, seed=s)) for name in ("a", "b") for s in (0, 1)]
    record_suite(chosen[:1], tmp_path, tiny_data)
    stamp = (tmp_path / "a" / "seed-0" / "run.json").stat().st_mtime_ns
    record(*chosen[1], tmp_path, data=tiny_data, time_limit=0)
    record_suite(chosen, tmp_path, tiny_data, time_limit=0)
    assert [progress(run, tmp_path) for run in chosen] == ["done", "begun, 10 of 60 steps", "missing", "missing"]
    record_suite(chosen, tmp_path, tiny_data)
    assert [progress(run, tmp_path) for run in chosen] == ["done"] * 4
    assert (tmp_path / "a" / "seed-0" / "run.json").stat().st_mtime_ns == stamp


def test_runs_recorded_at_once_are_the_runs_they_would_be_alone(tmp_path, tiny_config, tiny_data):
    chosen = [runs.Run(name, dataclasses.replace(tiny_config, seed=s)) for name in ("a", "b") for s in range(3)]
    record_suite(chosen, tmp_path / "at once", tiny_data, jobs=4)
    for run in chosen:
        alone = record(*run, tmp_path / "alone", data=tiny_data)
        assert contents(alone) == contents(tmp_path / "at once" / run.name / f"seed-{run.config.seed}")


def test_a_run_says_how_many_shared_its_device(tmp_path, tiny_config, tiny_data):
    """No more than were left to do, whatever could have been done at once."""
    chosen = [runs.Run(name, tiny_config) for name in "abc"]
    for some in (chosen[:1], chosen):
        record_suite(some, tmp_path, tiny_data, jobs=4)
    told = [json.loads((tmp_path / name / "seed-0" / "run.json").read_text())["stretches"] for name in "abc"]
    assert [[stretch["at_once"] for stretch in stretches] for stretches in told] == [[1], [2], [2]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_that_cannot_be_done_are_told_at_once_and_stop_no_other(tmp_path, tiny_config, tiny_data, capsys, jobs):
    chosen = [runs.Run(name, tiny_config) for name in "abcd"]
    for name in "ac":
        record(name, dataclasses.replace(tiny_config, momentum=0.5), tmp_path, data=tiny_data)
    (tmp_path / "c" / "seed-0" / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"a seed 0: .* holds another run .*; c seed 0: .*run.json is damaged"):
        record_suite(chosen, tmp_path, tiny_data, jobs=jobs)
    printed = capsys.readouterr().out.splitlines()
    told = [number for number, line in enumerate(printed) if "holds another run" in line or "is damaged" in line]
    assert len(told) == 2 and told[-1] < len(printed) - 1, "before the last line on d"
    assert [progress(run, tmp_path) for run in chosen if run.name in "bd"] == ["done"] * 2


def test_of_runs_recorded_at_once_a_fault_of_the_program_starts_nothing_more(tmp_path, tiny_config, monkeypatch):
    chosen, begun = [runs.Run(name, tiny_config) for name in "abcdef"], []

    def fail(name, *_, **__):
        begun.append(name)
        raise KeyError(name)

    monkeypatch.setattr(runs, "record", fail)
    with pytest.raises(KeyError):
        record_suite(chosen, tmp_path, None, jobs=2)
    assert set(begun) <= {"a", "b"}


def test_a_suite_ends_with_the_run_that_its_time_stopped(tmp_path, tiny_config, monkeypatch):
    chosen = [runs.Run(name, tiny_config) for name in ("a", "b")]
    asked = []
    monkeypatch.setattr(runs, "record", lambda name, config, directory, left, data, **_: asked.append((name, left)))
    record_suite(chosen, tmp_path, None, time_limit=600)
    assert [name for name, _ in asked] == ["a"], "a came back unfinished, so the time is up"


def test_a_suite_hands_down_what_is_left_of_its_time(tmp_path, tiny_config, monkeypatch):
    clock, asked = itertools.count(step=100), []
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(runs, "record", lambda name, config, directory, left, data, **_: asked.append((name, left)))
    monkeypatch.setattr(runs, "progress", lambda run, _: "done" if run.name in dict(asked) else "missing")
    record_suite([runs.Run(name, tiny_config) for name in "abcd"], tmp_path, None, time_limit=250)
    assert asked == [("a", 150), ("b", 50)]


def test_a_run_that_diverges_does_not_stop_its_suite(tmp_path, tiny_config, tiny_data):
    wild = dataclasses.replace(tiny_config, schedule=Schedule(steps=60, milestones=(5, 45), lr=1e30))
    with pytest.raises(
        NotFinite, match=r"^a seed 0: the loss was no longer finite at step \d \(learning rate 1e\+30\)"
    ):
        record_suite([runs.Run("a", wild), runs.Run("b", tiny_config)], tmp_path, tiny_data)
    assert progress(runs.Run("b", tiny_config), tmp_path) == "done"
    json.loads((tmp_path / "a" / "seed-0" / "run.json").read_text())


def test_a_run_recorded_before_a_field_was_added_is_still_that_run(tmp_path, tiny_config, tiny_data):
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)

    def grow_old():
        about = json.loads((folder / "run.json").read_text())
        for name in ("preactivation", "single", "strength"):
            del about["config"]["spec"][name]
        (folder / "run.json").write_text(json.dumps(about))

    grow_old()
    assert progress(runs.Run("tiny", tiny_config), tmp_path).startswith("begun")
    record("tiny", tiny_config, tmp_path, data=tiny_data)
    grow_old()
    before = (folder / "run.json").read_text()
    assert progress(runs.Run("tiny", tiny_config), tmp_path) == "done"
    assert record("tiny", tiny_config, tmp_path, data=tiny_data) == folder
    assert load_network(folder).spec == tiny_config.spec
    assert (folder / "run.json").read_text() == before
    other = dataclasses.replace(tiny_config, spec=dataclasses.replace(tiny_config.spec, strength=0.5))
    with pytest.raises(RunError, match=r"holds another run \(spec.strength 1.0 instead of 0.5\)"):
        record("tiny", other, tmp_path, data=tiny_data)


def test_an_interrupted_suite_begins_no_further_run(tmp_path, tiny_config, monkeypatch):
    begun, ended, submitted, told = [], [], threading.Event(), threading.Event()

    class Told(threading.Event):
        def set(self):
            super().set()
            told.set()

    class Pool(ThreadPoolExecutor):
        def submit(self, function, run):
            future = super().submit(function, run)
            if run.name == "net-5":
                submitted.set()
            return future

    def interrupt(name, *_, **__):
        begun.append(name)
        if name == "net-0":
            submitted.wait(60)
            os.kill(os.getpid(), signal.SIGINT)  # as JupyterLab's stop button
        told.wait(60)
        ended.append(name)

    monkeypatch.setattr(runs, "threading", SimpleNamespace(Event=Told))
    monkeypatch.setattr(runs, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(runs, "record", interrupt)
    monkeypatch.setattr(runs, "progress", lambda run, _: "done" if run.name in ended else "missing")
    with pytest.raises(KeyboardInterrupt):
        record_suite([runs.Run(f"net-{k}", tiny_config) for k in range(6)], tmp_path, None, jobs=2)
    assert set(begun) <= {"net-0", "net-1"}


def test_a_fault_is_told_before_the_runs_beside_it_are_done(tmp_path, tiny_config, monkeypatch, capsys):
    told = threading.Event()

    def fail(name, *_, **__):
        if name == "net-1":
            raise torch.OutOfMemoryError("no room")
        told.wait(60)
        assert "net-1 seed 0: OutOfMemoryError('no room')" in capsys.readouterr().out

    monkeypatch.setattr(runs, "record", fail)
    monkeypatch.setattr(runs.tqdm, "write", lambda text: print(text) or told.set())
    with pytest.raises(torch.OutOfMemoryError):
        record_suite([runs.Run(f"net-{k}", tiny_config) for k in range(3)], tmp_path, None, jobs=2)
    assert told.is_set()


def test_the_source_is_the_checkouts_commit_and_says_whether_code_differs(tmp_path, monkeypatch):
    source = runs.source_commit.__wrapped__
    for name in ("SOURCE_COMMIT", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    runs.git("init", "--quiet")
    runs.git("add", "src")
    runs.git("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "a")
    (tmp_path / "notes").write_text("no code")
    assert source() == runs.git("rev-parse", "HEAD")
    (tmp_path / "src" / "a.py").write_text("2")
    assert source() == runs.git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("SOURCE_COMMIT", "abc")
    assert source() == "abc"
    monkeypatch.delenv("SOURCE_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert source() is None


def test_suites_are_chosen_from_by_name_and_seed():
    paper = suite("paper")
    assert [run.name for run in paper.runs[:4]] == ["plain-20", "plain-56", "resnet-20", "resnet-56"]
    assert len(select(paper, only=["resnet-110"])) == 5
    assert len(select(paper, seeds=[0])) == 11
    with pytest.raises(UnknownName, match="resnet-110"):
        select(paper, only=["resnet-111"])


def test_every_run_of_a_suite_has_a_folder_of_its_own():
    for chosen in SUITES.values():
        names = [(run.name, run.config.seed) for run in chosen.runs]
        assert len(set(names)) == len(names)


def test_a_comparison_has_three_seeds_of_each_side():
    for chosen in ("options", "variants", "deviations"):
        nets = pd.Series({(run.name, run.config.seed): run.config.seed for run in SUITES[chosen].runs})
        assert set(nets.groupby(level=0).apply(tuple)) == {(0, 1, 2)}
        assert {run.config.schedule.steps for run in SUITES[chosen].runs} == {64_000}
    assert {run.config.seed for run in suite("starts").runs} == {0, 1, 2}


def test_only_nets_of_110_layers_and_more_are_warmed_up():
    gated = {name for name, config in EXPERIMENTS.items() if config.schedule.warmup_lr is not None}
    assert gated == {"plain-110", "resnet-110", "resnet-110-preactivation", "resnet-1202"}


def test_a_run_that_starts_over_says_how_it_was_computed(tmp_path, tiny_config, tiny_data):
    """Not how its first stretch was, of which nothing is left."""
    folder = record("tiny", tiny_config, tmp_path, data=tiny_data, time_limit=0)
    about = json.loads((folder / "run.json").read_text())
    about["path"]["precision"] = "bfloat16"  # as of a machine whose choice was another
    (folder / "run.json").write_text(json.dumps(about))
    (folder / runs.CHECKPOINT).unlink()
    record("tiny", tiny_config, tmp_path, data=tiny_data)
    about = json.loads((folder / "run.json").read_text())
    assert about["path"]["precision"] == "float32"
    assert [stretch["from_step"] for stretch in about["stretches"]] == [0]
