"""What goes wrong outside the program: one sentence, the right exit code, and nothing that was recorded is lost."""

import dataclasses
import itertools
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import tqdm
from recorded import contents, lines
from safetensors.torch import save_file
from torchvision.datasets import CIFAR10

import helpers
from helpers import checkpoint, data, download, experiments, runs
from helpers import train as training
from helpers.checkpoint import load, save
from helpers.runs import RunError, load_network, load_runs, load_series, progress, record
from helpers.train import start


@pytest.fixture
def tiny(call, monkeypatch, tiny_config, tiny_data):
    """`python -m helpers train tiny`, a net of four layers on sixty images: its exit code and what it printed."""
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", tiny_config)
    monkeypatch.setattr(data, "load_data", lambda *_: tiny_data)
    return lambda out, *options: call("train", "tiny", "--out", out, *options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_config, tiny_data):
    """What the uninterrupted run recorded."""
    return contents(record("tiny", tiny_config, tmp_path_factory.mktemp("whole"), data=tiny_data))


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory, tiny_config, tiny_data):
    folder = tmp_path_factory.mktemp("begun")
    for steps in (10, 20):
        assert load(record("tiny", tiny_config, folder, 0, tiny_data) / runs.CHECKPOINT).step == steps
    return folder


@pytest.fixture
def begun(tmp_path, two_rows):
    """The folder of a run with two of its six rows."""
    shutil.copytree(two_rows, tmp_path / "begun")
    return tmp_path / "begun" / "tiny" / "seed-0"


def snapshot(folder: Path):
    """What is in it, file by file; folders too."""
    return {path.name: path.is_dir() or path.read_bytes() for path in folder.iterdir() if path.name != "run.lock"}


def assert_told(result, code: int, sentence: str):
    """One line on the error stream, with the exit code."""
    assert result[0] == code
    assert re.fullmatch(rf"error: .*{sentence}.*\n", result[1].err), result[1].err


# What is asked for


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet-21"], r"'resnet-21': did you mean resnet-20 or resnet-32\? Networks have 6n\+2 layers\."),
        (["plain-1000"], r"'plain-1000': did you mean plain-110 or plain-56\? Networks have 6n\+2 layers\."),
        (["resnet-26"], r"'resnet-26': did you mean resnet-20 or resnet-32\?"),
        (["resent-20"], r"'resent-20': did you mean resnet-20 or"),
    ],
)
def test_a_depth_that_no_network_has_is_told_with_the_nearest(call, arguments, sentence):
    assert_told(call("train", *arguments), 2, f"unknown experiment {sentence}")


def test_a_seed_beyond_the_generators_range_is_refused(call):
    code, printed = call("train", "plain-8", "--seed", 2**64)
    assert code == 2 and "--seed" in printed.err and "less than or equal to 4294967295" in printed.err


# Data


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_altered_data_files_are_refused_before_they_are_unpickled(call, small_cifar, tmp_path):
    folder = small_cifar.parent / CIFAR10.base_folder
    pickle.loads(pickle.dumps(Trap(tmp_path / "works")))
    assert (tmp_path / "works").exists()
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap(tmp_path / "unpickled")))
        assert_told(call("data", "--root", folder.parent), 1, rf"{path.name} is damaged .* delete it and load again")
        assert not (tmp_path / "unpickled").exists()
        path.write_bytes(good)
    assert call("data", "--root", folder.parent)[0] == 0


def test_a_truncated_archive_and_no_network(call, small_cifar, monkeypatch):
    shutil.rmtree(small_cifar.parent / CIFAR10.base_folder)
    good = small_cifar.read_bytes()
    small_cifar.write_bytes(good[:-100])
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=lambda _: None))
    told = rf"could not download .*\({small_cifar} is damaged or cut short; http.* fetch it yourself from http.*"
    told += rf"{data.ARCHIVE}, put it into {small_cifar.parent} and run this again"
    assert_told(call("data", "--root", small_cifar.parent), 1, told)
    small_cifar.write_bytes(good)
    assert call("data", "--root", small_cifar.parent)[0] == 0


def test_one_missing_data_file_comes_from_the_archive(call, small_cifar):
    (small_cifar.parent / CIFAR10.base_folder / "test_batch").unlink()
    assert call("data", "--root", small_cifar.parent)[0] == 0


def test_a_file_where_the_data_should_be(call, tmp_path):
    (tmp_path / "file").write_text("")
    assert_told(
        call("data", "--root", tmp_path / "file"), 1, "cannot write CIFAR-10 into .*file .*choose another folder"
    )


# A run's folder


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path):
    path.write_bytes(b"")


def text(path: Path):
    path.write_text("not what it should be\n")


def alter(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path: Path):
    path.unlink()
    save_file({"a": torch.zeros(3)}, path)


def pickled(path: Path):
    torch.save({"a": Trap(path.parent / "unpickled")}, path)


def folder_instead(path: Path):
    path.unlink()
    path.mkdir()


def missing(path: Path):
    path.unlink()


def another_value(path: Path):
    path.write_text("[1, 2]\n")


def lacks_a_key(path: Path):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "stretches"}))


def first_line_cut(path: Path):
    path.write_text(path.read_text()[40:])


def middle_not_text(path: Path):
    path.write_bytes(path.read_bytes().replace(b'"lr"', b'"\xff\xfe"', 1))


CHECKPOINT = "checkpoint.safetensors is damaged or no checkpoint of this program: delete it to start over"
ABOUT = r"run.json is damaged or of another version of this program: put a whole copy of it back, or remove the folder"
ROWS = r"metrics.jsonl is damaged in line 1: put a whole copy of it back, or remove the folder"
APART = "checkpoint.safetensors was not saved with the rows of .*metrics.jsonl: put the files of one run together, or"


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        *[("checkpoint.safetensors", damage, CHECKPOINT) for damage in (cut, empty, text, alter, foreign, pickled)],
        ("checkpoint.safetensors", folder_instead, r"recording into .* broke off: Is a directory \(.*safetensors\)"),
        *[("run.json", damage, ABOUT) for damage in (cut, empty, text, another_value, lacks_a_key)],
        ("run.json", missing, "run.json is missing beside metrics.jsonl: put a whole copy of it back, or remove"),
        ("run.json", folder_instead, r"recording into .* broke off: Is a directory \(.*run.json\)"),
        *[("metrics.jsonl", d, ROWS) for d in (first_line_cut, middle_not_text, another_value, text)],
        *[("metrics.jsonl", damage, APART) for damage in (empty, missing, cut)],
    ],
)
def test_a_damaged_folder_is_refused_and_left_as_it_is(tiny, begun, whole, name, damage, sentence):
    """And goes on once the damage is mended."""
    shutil.copytree(begun, begun.parents[2] / "kept")
    damage(begun / name)
    before = snapshot(begun)
    assert_told(tiny(begun.parents[1]), 1, sentence)
    assert snapshot(begun) == before
    shutil.rmtree(begun)
    (begun.parents[2] / "kept").rename(begun)
    assert tiny(begun.parents[1])[0] == 0 and contents(begun) == whole


def test_damage_in_the_middle_is_named_by_every_reader(begun, tiny_config):
    first_line_cut(begun / "metrics.jsonl")
    with pytest.raises(RunError, match=ROWS):
        load_runs(begun.parents[2], "begun")
    assert re.match(f"not done: .*{ROWS}", progress(runs.Run("tiny", tiny_config), begun.parents[1]))


def test_a_checkpoint_of_other_data_is_refused(tiny, begun, tmp_path, monkeypatch, tiny_config, tiny_data):
    """Its configuration is the same, but it was not saved after as many seconds as the rows beside it say."""
    with monkeypatch.context() as slow:
        slow.setattr(training, "time", SimpleNamespace(perf_counter=itertools.count(step=1000).__next__))
        other = record("tiny", tiny_config, tmp_path / "other", 0, tiny_data._replace(md5={"train": "2", "test": "3"}))
    shutil.copy(other / runs.CHECKPOINT, begun)
    assert_told(tiny(begun.parents[1]), 1, APART)


def test_a_checkpoint_that_is_deleted_starts_the_run_over(tiny, begun, whole):
    (begun / runs.CHECKPOINT).unlink()
    code, printed = tiny(begun.parents[1])
    assert code == 0 and "has no checkpoint: its 2 recorded rows are computed again" in printed.out
    assert contents(begun) == whole


def test_a_path_that_this_machine_lacks_is_refused(tiny, begun):
    state = load(begun / runs.CHECKPOINT)
    state.path = dataclasses.replace(state.path, threads=10_000)
    save(state, begun / runs.CHECKPOINT)
    before = snapshot(begun)
    reason = "the run is one on 10000 CPU threads and this machine has .*"
    told = f"begun/tiny/seed-0 cannot go on: {reason}; continue on one that can, or choose another folder"
    assert_told(tiny(begun.parents[1]), 1, told)
    assert snapshot(begun) == before


@pytest.mark.parametrize("damage", [cut, text, foreign, pickled])
def test_damaged_weights_are_named(tiny, tmp_path, damage):
    tiny(tmp_path)
    damage(tmp_path / "tiny" / "seed-0" / "weights.safetensors")
    with pytest.raises(RunError, match=r"weights.safetensors is damaged or of another network than run.json says: put"):
        load_network(tmp_path / "tiny" / "seed-0")


@pytest.mark.parametrize("damage", [empty, middle_not_text])
def test_damaged_tables_are_named(tiny, tmp_path, damage):
    tiny(tmp_path / "suite")
    path = tmp_path / "suite" / "tiny" / "seed-0" / "responses.csv"
    damage(path) if damage is empty else path.write_bytes(b"layer,std\n\xff\xfe,1\n")
    with pytest.raises(RunError, match=r"responses.csv is damaged: put a whole copy"):
        load_series("responses.csv", tmp_path)


def test_no_pickle_is_loaded_from_a_run_folder(tiny, begun, tmp_path, monkeypatch, tiny_config):
    def refuse(*_, **__):
        raise AssertionError("a pickle was loaded")

    for module, name in [
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
        (pd, "read_pickle"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    tiny(tmp_path / "suite")
    folder = tmp_path / "suite" / "tiny" / "seed-0"
    for name in ("checkpoint.safetensors", "anything.pkl"):
        pickled(folder / name)
    assert len(load_runs(tmp_path, "suite")) == 6 and len(load_series("gradients.csv", tmp_path, "suite"))
    assert load_network(folder) and progress(runs.Run("tiny", tiny_config), tmp_path / "suite") == "done"
    assert tiny(tmp_path / "suite")[0] == 0
    pickled(begun / runs.CHECKPOINT)
    assert_told(tiny(begun.parents[1]), 1, CHECKPOINT)
    pickled(folder / "weights.safetensors")
    with pytest.raises(RunError, match="is damaged"):
        load_network(folder)
    assert not list(tmp_path.rglob("unpickled"))


def test_nothing_in_the_package_unpickles():
    source = "\n".join(path.read_text() for path in Path(helpers.__file__).parent.rglob("*.py"))
    assert not re.search(r"pickle|torch\.load\b|\bnp\.load|numpy\.load|shelve|marshal|joblib", source)


# The disk


def as_root(*command) -> bool:
    """Whether the command succeeded; by sudo, if it asks for no password, where this is not root."""
    command = map(str, command if os.geteuid() == 0 else ("sudo", "-n", *command))
    return subprocess.run(shlex.join(command), shell=True, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not as_root("mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", folder):
        lacking = os.environ.get("CI") and not as_root("true")
        (pytest.fail if lacking else pytest.skip)("mounting takes root, or sudo without a password, and permission")
    yield folder
    assert as_root("umount", folder)


@pytest.fixture(scope="module")
def whole_by_steps(tmp_path_factory, tiny_config, tiny_data):
    """What the uninterrupted run recorded, with an evaluation after each step."""
    config = dataclasses.replace(tiny_config, eval_every=1)
    return contents(record("tiny", config, tmp_path_factory.mktemp("whole"), data=tiny_data))


def fill(disk: Path):
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


def fill_before(monkeypatch, disk: Path, name: str, time: int):
    """Let the disk be full when `name` is written for the `time`-th time; a line counts when it needs a new page."""
    count = itertools.count(1)

    def filling(write):
        def wrapped(path, content):
            page = write is not append or path.stat().st_size % 4096 + len(json.dumps(content)) > 4096
            if path.name == name and page and next(count) == time:
                fill(disk)
            return write(path, content)

        return wrapped

    append = runs.append
    monkeypatch.setattr(runs, "append", filling(append))
    for module in (runs, checkpoint):
        monkeypatch.setattr(module, "write", filling(module.write))


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("run.json", 1),
        ("run.json", 2),
        ("metrics.jsonl", 1),
        ("metrics.jsonl", 2),
        ("gradients.csv", 3),
        ("checkpoint.safetensors", 1),
        ("checkpoint.safetensors", 30),
        ("responses.csv", 1),
        ("weights.safetensors", 1),
    ],
)
def test_a_full_disk_loses_nothing(tiny, disk, whole_by_steps, monkeypatch, name, time):
    folder = disk / "tiny" / "seed-0"
    with monkeypatch.context() as patch:
        fill_before(patch, disk, name, time)
        assert_told(tiny(disk, "--eval-every", 1), 1, "recording into .* broke off: No space left on device; nothing")
    assert not list(folder.glob("*.part")), "what would keep the disk full"
    rows = lines(folder)
    if (name, time) == ("metrics.jsonl", 2):
        assert not (folder / "metrics.jsonl").read_text().endswith("\n"), "the torn line this test is about"
    assert_told(tiny(disk, "--eval-every", 1), 1, "No space left on device")
    assert lines(folder) == rows
    (disk / "filler").unlink()
    code, _ = tiny(disk, "--eval-every", 1)
    assert code == 0 and contents(folder) == whole_by_steps
    begun_again = json.loads((folder / "run.json").read_text())["stretches"][-1]["from_step"]
    assert begun_again in (len(rows), len(rows) - 1), "at most an interval is computed again"


def test_a_full_disk_while_the_archive_is_unpacked(call, small_cifar, disk):
    shutil.move(small_cifar, disk)
    (disk / "filler").write_bytes(bytes(700_000))
    assert_told(
        call("data", "--root", disk), 1, rf"cannot write CIFAR-10 into {disk} \(No space left on device\): mend"
    )
    left = [path.name for path in disk.iterdir() if path.is_dir() and path.name != "lost+found"]
    assert left == [], "a file that is there is whole, so nobody is told that it is damaged"
    (disk / "filler").unlink()
    assert call("data", "--root", disk)[0] == 0


def test_a_disk_that_cannot_be_written(tiny, disk, whole):
    folder = disk / "tiny" / "seed-0"
    tiny(disk, "--time-limit", 0)
    before = snapshot(folder)
    assert as_root("mount", "-o", "remount,ro", disk)
    assert_told(tiny(disk), 1, "recording into .* broke off: Read-only file system")
    assert_told(tiny(disk, "--seed", 1), 1, "recording into .* broke off: Read-only file system")
    assert snapshot(folder) == before
    assert as_root("mount", "-o", "remount,rw", disk)
    assert tiny(disk)[0] == 0 and contents(folder) == whole


@pytest.mark.parametrize("place", ["out", "out/tiny", "out/tiny/seed-0"])
def test_a_file_where_a_folder_should_be(tiny, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    assert_told(tiny(tmp_path / "out"), 1, "recording into .*seed-0 broke off: (Not a directory|File exists)")
    assert (tmp_path / place).read_text() == "mine"


# Clocks and signals


def test_the_wall_clock_may_jump(tiny, whole, tmp_path, monkeypatch):
    """Seconds are of a clock that cannot be set; here it advances by one whenever it is asked."""
    jumps = itertools.cycle([2e9, 0.0, 1e9, -5.0])
    for place in (time, tqdm.std):
        monkeypatch.setattr(place, "time", lambda: next(jumps))
    for module in (runs, training):
        ticks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda ticks=ticks: next(ticks), perf_counter=lambda ticks=ticks: next(ticks))
        monkeypatch.setattr(module, "time", clock)
    folder = tmp_path / "jumping" / "tiny" / "seed-0"
    tiny(tmp_path / "jumping", "--time-limit", 5)
    assert [row["seconds"] for row in lines(folder)] == [2, 4, 6, 8], "4 s have passed and the next interval needs 2"
    tiny(tmp_path / "jumping")
    assert [row["seconds"] for row in lines(folder)] == [2, 4, 6, 8, 10, 12]
    assert {row["images_per_second"] for row in lines(folder)} == {160}
    assert contents(folder) == whole


def test_the_bar_bears_a_clock_that_jumps(tiny_config, tiny_data, monkeypatch, capsys):
    jumps = itertools.cycle([2e9, 0.0, 1e9, -5.0])
    monkeypatch.setattr(tqdm.std, "time", lambda: next(jumps))
    rows = list(training.train(start(tiny_config), tiny_data.train, tiny_data.test, progress=True))
    assert len(rows) == 6 and "/60" in capsys.readouterr().err


STOPPED = """
import os, sys
where, number = sys.argv.pop(1), int(sys.argv.pop(1))

def stop():
    os.kill(os.getpid(), number)

class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == where:
            stop()

def at_step(advance):
    def wrapped(state, *rest):
        advance(state, *rest)
        if state.step == int(where):
            stop()
    return wrapped

sys.meta_path.insert(0, AtImport())
if where.isdecimal():
    import helpers.train
    helpers.train.advance = at_step(helpers.train.advance)
from helpers.__main__ import main
main()
"""
STOP = "\nstopped; a run that was being recorded goes on from its last checkpoint\n"
SMALL = ["train", "plain-8", "--data", "synthetic", "--steps", "12", "--eval-every", "3", "--out"]


def stopped(where: str, number: int, out: Path) -> subprocess.CompletedProcess:
    """`python -m helpers train` in a process that gets a signal when it imports `where` or has done so many steps."""
    command = [sys.executable, "-c", STOPPED, where, str(int(number)), *SMALL, str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_training_leaves_a_run_that_ends_as_the_uninterrupted_one(call, tmp_path, number):
    call(*SMALL, tmp_path / "whole")
    end = stopped("8", number, tmp_path / "stopped")
    assert (end.returncode, end.stderr) == (128 + number, STOP)
    assert [line.split("  ")[1] for line in end.stdout.splitlines()] == ["step 3/12", "step 6/12"]
    folder = tmp_path / "stopped" / "plain-8" / "seed-0"
    assert [row["step"] for row in lines(folder)] == [3, 6]
    assert call(*SMALL, tmp_path / "stopped")[0] == 0
    assert json.loads((folder / "run.json").read_text())["stretches"][-1]["from_step"] == 6
    assert contents(folder) == contents(tmp_path / "whole" / "plain-8" / "seed-0")


@pytest.mark.parametrize("module", ["helpers.data", "numpy.matrixlib", "torch.nn", "torchvision.datasets", "filelock"])
def test_sigterm_while_modules_are_imported_ends_at_once(tmp_path, module):
    end = stopped(module, signal.SIGTERM, tmp_path)
    assert (end.returncode, end.stdout, end.stderr) == (143, "", STOP)
    assert not list(tmp_path.iterdir())


def test_what_is_recorded_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    """After a loss of power too: whole when it is moved into place, and a row when it is followed by a checkpoint."""
    synced, fsync = [], os.fsync

    def sync(number):
        synced.append((os.fstat(number).st_size, (tmp_path / "whole").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", sync)
    checkpoint.write(tmp_path / "whole", b"12345")
    runs.append(tmp_path / "rows", {"step": 1})
    assert synced == [(5, False), (len('{"step": 1}\n'), True)]
