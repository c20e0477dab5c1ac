"""Everything that decides what a run computes, as data; the defaults are the paper's recipe (Sec. 3.4 and 4.2)."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal, get_args

from helpers.data import Padding, Sampling
from helpers.models import Initialisation, Spec

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a pure function of the step (Sec. 4.2)."""

    steps: int = 64_000
    milestones: tuple[int, ...] = (32_000, 48_000)  # the rate is divided by ten at each
    lr: float = 0.1
    warmup_lr: float | None = None  # the rate until the gate opens; None: no warm-up
    gate_error: float = 80.0  # percent: the gate opens when 100 steps' mean training error is below it

    def lr_at(self, step: int, gate_open: bool = True) -> float:
        """The rate of step 0, 1, …; the milestones count from the start whenever the gate opens."""
        if self.warmup_lr is not None and not gate_open:
            return self.warmup_lr
        return self.lr * 0.1 ** sum(step >= milestone for milestone in self.milestones)

    def shortened(self, steps: int) -> "Schedule":
        """The same shape in another number of steps: the milestones scale with them."""
        milestones = tuple(round(milestone * steps / self.steps) for milestone in self.milestones)
        return dataclasses.replace(self, steps=steps, milestones=milestones)


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    spec: Spec
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = True  # False leaves batch normalisation and biases without weight decay
    nesterov: bool = False
    initialisation: Initialisation = "fan in"
    norm_parts: int = 1  # batch normalisation over batch_size / norm_parts images at a time: 2 as by two GPUs
    channel_statistics: bool = False  # normalise by each channel's mean and std instead of the mean image
    padding: Padding = "zeros"
    sampling: Sampling = "epochs"
    left_out: int = 0  # training images, from the end, that are not used
    held_out: int = 0  # training images, from the end, to evaluate on instead of the test set: 5,000 in the paper
    eval_every: int = 500  # steps between rows of metrics
    seed: int = 0
    precision: Precision = "auto"  # "auto": bfloat16 where the device is faster with it
    compiled: bool | None = None  # fused kernels of torch.compile; None: if compiling pays off over the schedule

    def __post_init__(self):
        choices = {"initialisation": Initialisation, "padding": Padding, "sampling": Sampling, "precision": Precision}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in get_args(known):
                raise ValueError(f"unknown {name} {value!r}: choose {', '.join(get_args(known))}")

    def as_dict(self) -> dict:
        """As JSON would hold it: plain types, lists for tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_dict(values: dict) -> "Config":
        """The inverse of `as_dict`."""
        spec = values["spec"] | {name: tuple(values["spec"][name]) for name in ("blocks", "widths")}
        schedule = values["schedule"] | {"milestones": tuple(values["schedule"]["milestones"])}
        return Config(**values | {"spec": Spec(**spec), "schedule": Schedule(**schedule)})
