"""A run between two evaluations as one file: written whole or not at all, and known to be whole when it is read."""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helpers.config import Config
from helpers.step import StepPath
from helpers.train import State, start


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or is not one of this run."""


def save(state: State, path: str | Path) -> None:
    """Write `state` to `path`. A kill leaves the old checkpoint or the new one, whole."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    about = {
        "config": state.config.as_dict(),
        "path": dataclasses.asdict(state.path),
        "seconds": state.seconds,
    }
    about["digest"] = digest(tensors, about)
    write(Path(path), safetensors.torch.save(tensors, {"about": json.dumps(about)}))


def write(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then move into place."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()  # on a full disk it takes the space that others need
        raise


def load(path: str | Path) -> State:
    """The state that `save` wrote.

    Raises CheckpointError if the file is damaged or not a checkpoint, PathError if this machine cannot go on with it.
    """
    Path(path).open("rb").close()  # a file that cannot be read is an OSError, and no reason to delete it
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        claimed = about.pop("digest")
        if digest(tensors, about) != claimed:
            raise ValueError("the digest does not match")
        config, step_path = Config.from_dict(about["config"]), StepPath(**about["path"])
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        sentence = f"{path} is damaged or no checkpoint of this program: delete it to start over"
        raise CheckpointError(sentence) from error
    state = start(config, path=step_path)
    if tensors.keys() != state.tensors().keys():
        raise CheckpointError(f"{path} was saved by another version of this program: use that or delete it")
    state.seconds = about["seconds"]
    with torch.no_grad():
        for name, tensor in state.tensors().items():
            tensor.copy_(tensors[name])
    return state


def digest(tensors: dict[str, Tensor], about: dict) -> str:
    """One SHA-256 over all of a checkpoint: a changed bit anywhere shows."""
    total = hashlib.sha256(json.dumps(about).encode())
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()
