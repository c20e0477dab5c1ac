import pytest
import torch

from helpers.data import Data, Split
from helpers.models import Spec
from helpers.train import Config, Schedule


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
