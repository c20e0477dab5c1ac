import hashlib
import pickle
import signal
import sys
import tarfile

import pytest
import torch
from torchvision.datasets import CIFAR10

from helpers import ROOT, data
from helpers.__main__ import main
from helpers.config import Config, Schedule
from helpers.data import Data, Split
from helpers.models import Spec

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it


@pytest.fixture(autouse=True)
def alone():
    """The same random numbers whatever ran before; no figure is left open."""
    torch.manual_seed(0)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    """Sixty 8x8 images for training and twenty for testing, whose colour tells the class."""

    def split(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 10
        noise = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
        return Split((noise + 12 * labels[:, None, None, None]).to(torch.uint8), labels)

    return Data("tiny", split(60, 0), split(20, 1), {"train": "0", "test": "1"})


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A residual net of four layers, sixty steps of sixteen images."""
    schedule = Schedule(steps=60, milestones=(30, 45))
    return Config(Spec((1,), (4,)), schedule, batch_size=16, eval_every=10, precision="float32", compiled=False)


@pytest.fixture(scope="session")
def cifar() -> Data:
    """CIFAR-10 itself, where it is."""
    if not (ROOT / "data" / CIFAR10.base_folder).is_dir():
        pytest.skip("no CIFAR-10 here")
    return data.load_data("cifar10")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process; its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["helpers", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as stop:
                main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        code = stop.value.code
        return (code or 0), capsys.readouterr()

    return run


def pack(folder, target):
    with tarfile.open(target, "w:gz") as file:
        file.add(folder, folder.name)
    return hashlib.md5(target.read_bytes()).hexdigest()


@pytest.fixture
def offline(monkeypatch):
    """The only mirror is a port of this machine where nobody answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "MIRRORS", ("http://127.0.0.1:9/" + data.ARCHIVE,))


@pytest.fixture
def small_cifar(offline, tmp_path, monkeypatch):
    """A data set in CIFAR-10's format and names with ten images a batch, packed; torchvision accepts its sums."""
    folder = tmp_path / "home" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    sums = {}
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        images = torch.randint(0, 256, (10, 3072), dtype=torch.uint8, generator=generator).numpy()
        (folder / name).write_bytes(pickle.dumps({"data": images, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    archive = tmp_path / "home" / data.ARCHIVE
    monkeypatch.setattr(data, "ARCHIVE_MD5", pack(folder, archive))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return archive
