"""A stand-in for a CUDA graph where there is no GPU: the operations of a call, recorded and done again."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """What CUDA would record: every operation, on the very memory it was done on, and no number Python computed."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, results in self.calls:
            for old, new in zip(tree_leaves(results), tree_leaves(operation(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture(action):
    """`helpers.step.capture`, recorded by a tape."""
    for _ in range(3):
        action()
    tape = Tape()
    with tape:
        action()
    names = {operation.name() for operation, *_ in tape.calls}
    waits = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
    assert not names & waits, f"a GPU would have to be waited for: {names & waits}"
    return tape.replay
