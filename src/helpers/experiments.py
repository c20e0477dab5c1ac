"""Every run of the reproduction by name: what `plain-20` is, and which runs a suite has, in which order."""

import dataclasses
import difflib
import re
from typing import NamedTuple

from helpers.config import Config, Schedule
from helpers.models import Shortcut, cifar_spec

DEPTHS = (20, 32, 44, 56, 110)


class UnknownName(ValueError):
    """No experiment or suite has that name."""


class Run(NamedTuple):
    """One network trained once."""

    name: str
    config: Config


class Suite(NamedTuple):
    """Runs that belong together, in the order in which they are worth doing."""

    about: str
    data: str
    runs: tuple[Run, ...]


def cifar(depth: int, shortcut: Shortcut = "A", **changes) -> Config:
    """The paper's configuration (Sec. 4.2); nets of 110 layers and more start at a rate of 0.01."""
    changes = {"schedule": Schedule(warmup_lr=0.01 if depth >= 110 else None), **changes}
    return Config(cifar_spec(depth, shortcut), **changes)


def vary(depth: int, **changes) -> Config:
    """The residual net of that depth with another `Spec`."""
    config = cifar(depth)
    return dataclasses.replace(config, spec=dataclasses.replace(config.spec, **changes))


VARIANTS: dict[str, Config] = {
    # without shortcuts a net of one-layer blocks is the plain net itself, so plain-56 of suite paper is beside it
    "resnet-56-single": vary(56, single=True, blocks=(18, 18, 18)),
    **{f"resnet-{depth}-preactivation": vary(depth, preactivation=True) for depth in (56, 110)},
    **{f"resnet-56-strength-{strength}": vary(56, strength=strength) for strength in (0.25, 0.5, 0.75)},
    "plain-56-identity": cifar(56, "plain", initialisation="near identity"),
}

DEVIATIONS: dict[str, dict] = {
    "nesterov": {"nesterov": True},
    "decay-2e-4": {"weight_decay": 2e-4},
    "decay-5e-4": {"weight_decay": 5e-4},
    "decay-weights-only": {"decay_all": False},
    "channel-statistics": {"channel_statistics": True},
    "black-padding": {"padding": "black"},
    "reflect-padding": {"padding": "reflect"},
    "replacement": {"sampling": "replacement"},
    "drop-last": {"sampling": "drop last"},
    "fan-out": {"initialisation": "fan out"},
    "norm-halves": {"norm_parts": 2},
    "zero-last": {"initialisation": "zero last"},
    "45k": {"left_out": 5000},
    "float32": {"precision": "float32"},  # the paper's, where "auto" takes bfloat16
}

APART: dict[str, Config] = {  # deviations of a net that has no others
    "resnet-110-no-warmup": cifar(110, schedule=Schedule()),
    "plain-56-float32": cifar(56, "plain", precision="float32"),
}

EXPERIMENTS: dict[str, Config] = {
    **{f"plain-{depth}": cifar(depth, "plain") for depth in (8, *DEPTHS)},
    **{f"resnet-{depth}": cifar(depth) for depth in (8, *DEPTHS, 1202)},
    **{f"resnet-{depth}-{option}": cifar(depth, option) for depth in (20, 56) for option in ("B", "C")},
    **VARIANTS,
    **{f"resnet-{depth}-{name}": cifar(depth, **how) for depth in (20, 56) for name, how in DEVIATIONS.items()},
    **APART,
}


def near(name: str, known, what: str) -> UnknownName:
    """The error for an unknown `name`, with the names most like it: of its family, those of the nearest depth."""
    hint, close = "", difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if numbered := re.fullmatch(r"(plain|resnet)-(\d+)", name):
        family, depth = numbered[1], int(numbered[2])
        hint = "" if depth % 6 == 2 else " Networks have 6n+2 layers."
        depths = [int(other[1]) for k in known if (other := re.fullmatch(rf"{family}-(\d+)", k))]
        close = [f"{family}-{d}" for d in sorted(depths, key=lambda d: abs(d - depth))[:2]] or close
    meant = f"did you mean {' or '.join(close)}?{hint}" if close else f"there are {', '.join(known)}"
    return UnknownName(f"unknown {what} {name!r}: {meant}")


def experiment(name: str, seed: int = 0, steps: int | None = None, eval_every: int | None = None) -> Run:
    """The run of that name; `steps` shortens the schedule, milestones and all. Raises UnknownName."""
    if name not in EXPERIMENTS:
        raise near(name, EXPERIMENTS, "experiment")
    config = dataclasses.replace(EXPERIMENTS[name], seed=seed)
    if steps is not None:
        config = dataclasses.replace(config, schedule=config.schedule.shortened(steps))
    if eval_every is not None:
        config = dataclasses.replace(config, eval_every=eval_every)
    return Run(name, config)


def paper_order() -> list[tuple[str, int]]:
    """Fig. 1 and 7 first, then the rest of Fig. 6 and Table 6, then more seeds, then 1202 layers."""
    first = ["plain-20", "plain-56", "resnet-20", "resnet-56"]
    second = ["plain-32", "plain-44", "plain-110", "resnet-32", "resnet-44", "resnet-110"]
    more = [("resnet-110", seed) for seed in range(1, 5)]
    more += [(name, seed) for seed in range(1, 5) for name in first]
    more += [(name, seed) for seed in range(1, 5) for name in second if name != "resnet-110"]
    return [(name, 0) for name in first + second] + more + [("resnet-1202", 0)]


def suite(name: str) -> Suite:
    """The suite of that name. Raises UnknownName."""
    if name not in SUITES:
        raise near(name, SUITES, "suite")
    return SUITES[name]


def select(suite: Suite, only: list[str] | None = None, seeds: list[int] | None = None) -> list[Run]:
    """The suite's runs of these experiments and seeds. Raises UnknownName for one it does not have."""
    known = list(dict.fromkeys(run.name for run in suite.runs))
    known_seeds = sorted({run.config.seed for run in suite.runs})
    if strange := set(seeds or ()) - set(known_seeds):
        raise UnknownName(f"this suite has no seed {', '.join(map(str, strange))}: it has {known_seeds}")
    for name in only or ():
        if name not in known:
            raise near(name, known, "experiment of this suite")
    return [run for run in suite.runs if (not only or run.name in only) and (not seeds or run.config.seed in seeds)]


QUICK = 4000  # steps

SUITES: dict[str, Suite] = {
    "smoke": Suite(
        "seconds, to see that everything works",
        "synthetic",
        tuple(experiment(n, steps=40, eval_every=10) for n in ("plain-8", "plain-20", "resnet-8", "resnet-20")),
    ),
    "quick": Suite(
        "the recipe in 4,000 steps instead of 64,000: an hour and a half on two CPU cores",
        "cifar10",
        tuple(experiment(n, steps=QUICK) for n in ("plain-20", "resnet-20", "plain-56", "resnet-56")),
    ),
    "agreement": Suite(
        "float32 against the fast path, on the quick schedule",
        "cifar10",
        tuple(
            experiment(f"{net}{precision}", seed, steps=QUICK)
            for net, seeds in (("resnet-20", 5), ("plain-56", 3))
            for seed in range(seeds)
            for precision in ("", "-float32")
        ),
    ),
    "starts": Suite(
        "the plain net of 56 layers begun near the identity, on the quick schedule",
        "cifar10",
        tuple(experiment("plain-56-identity", seed, steps=QUICK) for seed in range(3)),
    ),
    "paper": Suite(
        "the full protocol: Table 6, Figures 1, 6 and 7",
        "cifar10",
        tuple(experiment(n, seed) for n, seed in paper_order()),
    ),
    "options": Suite(
        "projection shortcuts: options B and C",
        "cifar10",
        tuple(experiment(f"resnet-{d}-{o}", seed) for seed in range(3) for d in (20, 56) for o in ("B", "C")),
    ),
    "variants": Suite(
        "one-layer blocks, pre-activation, weaker shortcuts; a plain net begun near the identity",
        "cifar10",
        tuple(experiment(name, seed) for seed in range(3) for name in VARIANTS),
    ),
    "deviations": Suite(
        "what each departure from the recipe costs",
        "cifar10",
        tuple(
            experiment(name, seed)
            for seed in range(3)
            for name in (*(f"resnet-{d}-{how}" for how in DEVIATIONS for d in (20, 56)), *APART)
        ),
    ),
}
