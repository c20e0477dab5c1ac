"""What the benchmarks share: the usual loop, the machine in words, measuring in a process of its own."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from helpers import ROOT

BATCH = 128


def usual(network: torch.nn.Module, workers: int, device: str = "cpu"):
    """The loop most reproductions have: PIL images, torchvision's transforms, float32, `.item()` every step.

    A generator that yields after each step; it ends with the epoch.
    """
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    steps.append(transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    dataset = CIFAR10(ROOT / "data", transform=transforms.Compose(steps))
    pinned = device == "cuda"
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, pin_memory=pinned)
    network = network.to(device).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    running = 0.0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += loss.item()
        yield


def measure_apart(script: str, *arguments: str, cache: str | None = None) -> dict:
    """What `script` prints as JSON, from a new process.

    In it nothing has been compiled yet, but for what lies in the folder `cache`. A process that fails ends this one,
    with what it complained of.
    """
    with tempfile.TemporaryDirectory() as empty:
        cache = cache or empty
        caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        command = [sys.executable, script, *arguments]
        done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
