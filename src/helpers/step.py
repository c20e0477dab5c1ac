"""One optimisation step, as fast as the device allows, beside the plain step that it must agree with.

Convolutions run in the vendor's kernels. What is left is memory traffic: batch normalisation, the addition and ReLU,
each a pass over the activations. The fast path fuses the three, forward and backward, and lays out memory as the
convolutions prefer it. Activations are in bfloat16, and so are the weights while a step computes with them, and their
gradients; stored weights, statistics, loss and optimiser stay in float32.
`StepPath` says which of this a run uses; the plain path is the network's own forward.
"""

import ctypes
import functools
import gc
import importlib.util
import operator
import os
import shutil
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

# held during what affects every thread: random numbers, tracing, compiling, capturing, and what may wait for the GPU
PROCESS_LOCK = threading.RLock()

THREADS = torch.get_num_threads()  # before a path changes it: a resumed run keeps the number it began with
MANY_STEPS = 10_000  # on a CPU compiling pays off after 600 to 1,500 in bfloat16, late or never in float32

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class PathError(RuntimeError):
    """This machine cannot take the path that a run was begun on."""


@dataclass(frozen=True)
class StepPath:
    """How steps are executed; chosen once per run and written to its `run.json`."""

    device: str  # cpu or cuda
    precision: str  # "float32", or "bfloat16" for activations
    compiled: bool  # batch normalisation, addition and ReLU fused by torch.compile
    graph: bool  # a whole step captured once as a CUDA graph, then replayed: one launch instead of hundreds
    threads: int  # of the CPU: sums are split among them, so another number rounds differently
    why: str  # in words

    def kernels(self, function: Callable) -> Callable:
        """`function`, as fused kernels if this path compiles."""
        return as_kernels(function) if self.compiled else function


@dataclass(frozen=True)
class Device:
    """What a path depends on."""

    kind: str  # cpu, cuda or mps
    bfloat16: bool  # multiplies bfloat16 faster than float32
    compiler: bool  # torch.compile can build kernels


def examine(kind: str) -> Device:
    """This machine's device of that kind."""
    return Device(kind, has_bfloat16(kind), has_compiler(kind))


def has_compiler(device: str) -> bool:
    """Whether torch.compile can build kernels here: a C++ compiler on a CPU, Triton (which needs C) on a GPU."""
    headers = sysconfig.get_path("include", "posix_prefix")  # where PyTorch looks, whatever a distribution's own scheme
    if not os.path.exists(os.path.join(headers, "Python.h")):  # what is built are Python modules
        return False
    if device == "cpu":
        return shutil.which(os.environ.get("CXX", "g++" if sys.platform == "linux" else "clang++")) is not None
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]  # those that Triton looks for
    found = any(shutil.which(compiler) for compiler in compilers)
    return device == "cuda" and found and importlib.util.find_spec("triton") is not None


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device == "cpu":
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, test, bool)() for test in tests)  # private names: a PyTorch may lack them
    return device == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def choose_path(device: Device, precision: str = "auto", compiled: bool | None = None, steps: int = 0) -> StepPath:
    """The path for a run of `steps` steps on `device`; "auto" and None leave the choice to the device's properties."""
    why = []
    if precision == "auto":
        precision = "bfloat16" if device.bfloat16 else "float32"
        why.append("bfloat16 instructions" if device.bfloat16 else "no fast bfloat16 here")
    if compiled is None:
        repaid = device.kind == "cuda" or (device.kind == "cpu" and precision == "bfloat16" and steps >= MANY_STEPS)
        compiled = device.compiler and repaid
        if not device.compiler:
            why.append("no kernels can be compiled here")
        elif device.kind == "cpu":
            why.append("many steps repay compiling" if compiled else "on a CPU compiled only for many bfloat16 steps")
    kind = device.kind
    if kind == "mps":
        kind = "cpu"
        why.append("on the CPU, since MPS lacks the float64 that sums are in")
    return StepPath(kind, precision, compiled, kind == "cuda", THREADS, ", ".join(why) or "as configured")


def take_path(path: StepPath) -> None:
    """Make this process follow `path`. Raises PathError, with the reason, where it cannot."""
    if path.device == "cuda" and not torch.cuda.is_available():
        raise PathError("the run is one on a GPU and this machine has none")
    if path.compiled and not has_compiler(path.device):
        raise PathError("the run is one with compiled kernels and this machine has no compiler")
    if path.device == "cpu":
        if path.threads > (os.cpu_count() or 1):
            raise PathError(f"the run is one on {path.threads} CPU threads and this machine has {os.cpu_count()}")
        torch.set_num_threads(path.threads)
        keep_freed_memory()
    if path.compiled:
        # imported here because it takes seconds, which other paths need not spend
        from torch._inductor import config as inductor

        inductor.cpp.threads = path.threads
    torch.backends.cudnn.benchmark = True  # the fastest algorithm for each shape, and there are few shapes
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions on a GPU round float32 to ten bits


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: handing 8 MB back and faulting it in again costs a quarter of the step."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for a large block
            library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def make_step(network: nn.Module, optimiser: torch.optim.Optimizer, path: StepPath) -> Step:
    """A function of one batch, images (n, 3, h, w) and labels (n,), that takes one step of SGD (Sec. 3.4).

    It returns, on the device and without waiting for it, the batch's mean loss in nats and its number of errors.
    """
    network.train().to(memory_format=torch.channels_last)
    forward = fuse(network) if path.compiled else network
    low = path.precision == "bfloat16"
    weights = {name: p for name, p in forward.named_parameters() if low and p.ndim > 1}
    # autocast would cast each weight, and its gradient back, in a kernel of its own
    casts = {name: p.detach().bfloat16().requires_grad_() for name, p in weights.items()}
    grads = [torch.empty_like(p) for p in weights.values()]

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        copy_all(casts.values(), weights.values())
        with torch.autocast(path.device, torch.bfloat16, enabled=low):
            logits = functional_call(forward, casts, images, tie_weights=False).float()
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        copy_all(grads, [cast.grad for cast in casts.values()])
        for weight, cast, grad in zip(weights.values(), casts.values(), grads, strict=True):
            weight.grad, cast.grad = grad, None
        optimiser.step()
        return loss.detach(), (logits.detach().argmax(1) != labels).sum()

    return step


@torch.no_grad()
def copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    """Copy each source into its target, dozens of them in one kernel on a GPU even where the types differ."""
    if targets := list(targets):  # PyTorch refuses to copy no tensors at all
        torch._foreach_copy_(targets, list(sources))


def capture(action: Callable[[], None]) -> Callable[[], None]:
    """`action` recorded as a CUDA graph: a function that does the same work again on the same memory.

    `action` is first run three times, so that allocating, choosing algorithms and compiling happen outside the
    recording; the caller must undo what these runs changed. Other threads may go on computing meanwhile, but if one of
    them waits for the whole device, the capture breaks.
    """
    stream = torch.cuda.current_stream()
    if stream == torch.cuda.default_stream():  # it cannot be captured
        stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            action()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()  # freeing an old graph, which a cycle or a traceback may have kept, breaks a capture under way
    try:
        # not on PyTorch's default stream for captures: it is one of 32 handed out in turn, to other threads too
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            action()
    finally:
        gc.enable()

    def replay(_kept=action) -> None:  # the graph holds only addresses: `action` keeps alive what lies there
        graph.replay()

    return replay


def fuse(network: nn.Module) -> fx.GraphModule:
    """The network's training forward with every norm -> (+ shortcut) -> ReLU as one operation.

    The result shares parameters and moving averages with `network`, which is left as it was.
    """
    with PROCESS_LOCK:  # while it traces, a call of any module by any thread would be traced too
        traced = fx.GraphModule(network, Tracer().trace(network))
    modules = dict(traced.named_modules())

    def is_relu(node: fx.Node) -> bool:
        return node.target is F.relu or isinstance(modules.get(node.target), nn.ReLU)

    for index, node in enumerate(list(traced.graph.nodes)):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if type(norm) is not nn.BatchNorm2d or len(node.users) != 1:
            continue
        last, added = next(iter(node.users)), None
        chain = [node]
        if last.target is operator.add and last.args[0] is node and len(last.users) == 1:
            added = last.args[1]
            chain.append(last)
            last = next(iter(last.users))
        if is_relu(last):
            traced.add_submodule(f"fused_{index}", NormReLU(norm))
            with traced.graph.inserting_before(last):
                fused = traced.graph.call_module(f"fused_{index}", (node.args[0], added))
            last.replace_all_uses_with(fused)
            for replaced in [last, *reversed(chain)]:
                traced.graph.erase_node(replaced)
    traced.recompile()
    return traced


class Tracer(fx.Tracer):
    """Leaves every batch normalisation whole, of whatever kind, and other threads alone."""

    def __init__(self):
        super().__init__()
        self.thread = threading.get_ident()

    def call_module(self, module, forward, args, kwargs):
        if threading.get_ident() != self.thread:  # during a trace the calls of every thread come here
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, name)


class NormReLU(nn.Module):
    """relu(norm(x) + added) in training mode, with the parameters and moving averages of `norm`."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, added: Tensor | None) -> Tensor:
        norm = self.norm
        averages = norm.running_mean, norm.running_var, norm.momentum
        return FusedNormReLU.apply(x, norm.weight, norm.bias, added, averages, norm.eps)


class FusedNormReLU(torch.autograd.Function):
    """Two passes over the activations forward, two backward; y is kept instead of a mask of where ReLU was open."""

    @staticmethod
    def forward(ctx, x, weight, bias, added, averages, eps):
        mean, inverse, scale, shift = as_kernels(moments)(x, weight, bias, *averages, eps)
        y = as_kernels(scale_add_relu)(x, scale, shift, added)
        ctx.save_for_backward(x, y, mean, inverse, weight)
        ctx.has_added = added is not None
        return y

    @staticmethod
    def backward(ctx, grad):
        x, y, mean, inverse, weight = ctx.saved_tensors
        grad_weight, grad_bias, a, b, c = as_kernels(backward_sums)(grad, x, y, mean, inverse, weight)
        grad_x, grad_added = as_kernels(backward_maps)(grad, x, y, a, b, c, ctx.has_added)
        return grad_x, grad_weight, grad_bias, grad_added, None, None


def as_kernels(function: Callable) -> Callable:
    """`function` as fused kernels, one for each shape it is called with."""
    from torch._dynamo import config as dynamo

    # the default is eight shapes and layouts; set at each call, since newer PyTorch keeps settings by thread, and on a
    # GPU backward runs in one of its own
    dynamo.recompile_limit = 64
    return compile_once(function)


@functools.cache
def compile_once(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


def per_channel(vector: Tensor) -> Tensor:
    return vector[:, None, None]


def moments(x, weight, bias, running_mean, running_var, momentum, eps):
    """Forward, first pass over x (n, c, h, w): the channels' mean, 1 / std, scale and shift, all (c,).

    x * scale + shift is the normalised x. The moving averages are updated in place, with the unbiased variance.
    """
    count = x.numel() // x.shape[1]
    x = x.float()
    mean = x.sum((0, 2, 3)) / count
    variance = ((x * x).sum((0, 2, 3)) / count - mean * mean).clamp_min(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * (count / (count - 1)), momentum)
    inverse = torch.rsqrt(variance + eps)
    scale = weight * inverse
    return mean, inverse, scale, bias - mean * scale


def scale_add_relu(x, scale, shift, added):
    """Forward, second pass: relu(x * scale + shift + added) in x's precision; `added` is (n, c, h, w) or None."""
    y = x.float() * per_channel(scale) + per_channel(shift)
    return F.relu(y if added is None else y + added.float()).to(x.dtype)


def backward_sums(grad, x, y, mean, inverse, weight):
    """Backward, first pass: the gradients of weight and bias, and coefficients a, b, c, all (c,).

    With g the gradient at ReLU's input, `grad` where y > 0 and else 0, the gradient of x is a * g + b * x + c.
    """
    count = x.numel() // x.shape[1]
    g = torch.where(y > 0, grad, 0).float()
    grad_bias = g.sum((0, 2, 3))
    grad_weight = (g * (x.float() - per_channel(mean))).sum((0, 2, 3)) * inverse
    a = weight * inverse
    b = -a * grad_weight * inverse / count
    return grad_weight, grad_bias, a, b, -a * grad_bias / count - b * mean


def backward_maps(grad, x, y, a, b, c, has_added):
    """Backward, second pass: the gradients of x and of `added`, (n, c, h, w) each; None if nothing was added."""
    g = torch.where(y > 0, grad, 0)
    grad_x = per_channel(a) * g.float() + per_channel(b) * x.float() + per_channel(c)
    return grad_x.to(x.dtype), g if has_added else None
