import copy
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import tape
import torch
import torch.nn.functional as F

from helpers import step
from helpers.models import ResNet, Spec, cifar_spec, imagenet_spec, split_norms
from helpers.step import (
    Device,
    NormReLU,
    PathError,
    StepPath,
    capture,
    choose_path,
    fuse,
    has_compiler,
    make_step,
    take_path,
)

COMPILER = pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler here")
EAGER = StepPath("cpu", "float32", False, False, torch.get_num_threads(), "")


@pytest.fixture(autouse=True, scope="module")
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def often_switched():
    """Threads take turns every few microseconds: what two of them can do to each other, they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def batch(size=8, count=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator), torch.randint(10, (count,), generator=generator)


def network(spec, seed=0):
    torch.manual_seed(seed)
    return ResNet(spec).to(memory_format=torch.channels_last).train()


@COMPILER
@pytest.mark.parametrize(
    "spec",
    [Spec((1, 2), (8, 16), shortcut=s) for s in ("plain", "A", "B", "C")]
    + [Spec((1, 1), (4, 8), True, "B")]
    + [Spec((1, 2), (8, 16), **form) for form in ({"preactivation": True}, {"single": True}, {"strength": 0.25})],
    ids=["plain", "A", "B", "C", "bottleneck", "preactivation", "single", "strength"],
)
def test_fused_agrees_with_the_plain_forward_in_double_precision(spec):
    """Outputs, every gradient, and the moving averages; the plain path in float32 is no further from the truth."""
    net = network(spec)
    exact, plain = copy.deepcopy(net).double(), copy.deepcopy(net)
    fused = fuse(net)
    images, labels = batch()
    F.cross_entropy(fused(images), labels).backward()
    F.cross_entropy(plain(images), labels).backward()
    F.cross_entropy(exact(images.double()), labels).backward()
    for ours, theirs, truth in zip(net.parameters(), plain.parameters(), exact.parameters(), strict=True):
        scale = truth.grad.norm()
        assert (ours.grad - truth.grad).norm() < 1e-5 * scale + 5 * (theirs.grad - truth.grad).norm()
    for (name, ours), truth in zip(net.named_buffers(), exact.buffers(), strict=True):
        if "running" in name:
            torch.testing.assert_close(ours, truth.float(), rtol=1e-5, atol=1e-6)


def test_every_norm_and_relu_of_the_papers_nets_is_fused():
    for spec, count in [
        (cifar_spec(20), 19),
        (cifar_spec(20, "plain"), 19),
        (imagenet_spec(50, "plain"), 49),
        (replace(cifar_spec(20), preactivation=True), 19),
        (replace(cifar_spec(20), strength=0.5), 19),
    ]:
        fused = fuse(ResNet(spec))
        assert sum(isinstance(module, NormReLU) for module in fused.modules()) == count
        assert not any("relu" in str(node.target) for node in fused.graph.nodes)


def test_norms_of_another_kind_are_left_alone():
    net = network(Spec((1,), (4,)))
    split_norms(net, 2)
    images, _ = batch()
    torch.testing.assert_close(fuse(net)(images), net(images))


def test_nets_can_be_fused_at_once_beside_others_that_are_called(often_switched):
    """Tracing replaces `nn.Module.__call__` in all threads, and a module of another net is none of the traced one's."""
    call, nets = torch.nn.Module.__call__, [network(cifar_spec(20)) for _ in range(8)]
    images, _ = batch()

    def both(net):
        net(images)
        return fuse(net)

    with ThreadPoolExecutor(4) as pool:
        for fused in pool.map(both, nets):
            assert sum(isinstance(module, NormReLU) for module in fused.modules()) == 19
    assert torch.nn.Module.__call__ is call


def test_fusing_leaves_the_network_as_it_was():
    net = network(Spec((1,), (4,)))
    names = [name for name, _ in net.named_modules()]
    images, _ = batch()
    net.eval()
    expected = net(images)
    fuse(net)
    assert [name for name, _ in net.named_modules()] == names
    assert torch.equal(net(images), expected)


def losses(path, steps):
    net = network(Spec((1, 1), (8, 16)))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True)
    take = make_step(net, optimiser, path)
    return [float(take(*batch(seed=k))[0]) for k in range(steps)]


def test_a_step_is_torchs_sgd_written_out():
    """v = m v + g + d w; w = w - lr v, without Nesterov's correction."""
    net = network(Spec((1,), (4,)))
    weights = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    momentum = {name: torch.zeros_like(w) for name, w in weights.items()}
    optimiser = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1), momentum=0.9, weight_decay=1e-2, fused=True)
    take, double = make_step(net, optimiser, EAGER), network(Spec((1,), (4,))).double()
    for seed in range(3):
        images, labels = batch(seed=seed)
        with torch.no_grad():
            for name, p in double.named_parameters():
                p.copy_(weights[name])
        double.zero_grad()
        F.cross_entropy(double(images.double()), labels).backward()
        for name, p in double.named_parameters():
            momentum[name] = 0.9 * momentum[name] + p.grad + 1e-2 * weights[name]
            weights[name] = weights[name] - 0.1 * momentum[name]
        take(images, labels)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach().double(), weights[name], rtol=1e-4, atol=1e-5)


@COMPILER
def test_the_fast_paths_give_the_same_losses_to_rounding():
    exact = losses(EAGER, steps=8)
    assert losses(replace(EAGER, compiled=True), steps=4) == pytest.approx(exact[:4], rel=1e-4)
    assert losses(replace(EAGER, precision="bfloat16"), steps=8) == pytest.approx(exact, rel=0.03)
    assert losses(replace(EAGER, precision="bfloat16", compiled=True), steps=8) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("spec", [cifar_spec(8), cifar_spec(8, "plain"), cifar_spec(8, "C")], ids=["A", "plain", "C"])
def test_in_bfloat16_a_step_is_autocasts_bit_for_bit(spec):
    """Each weight would be cast in an operation of its own there, and its gradient back; here all are at once."""
    ours, theirs = network(spec), network(spec)
    ours_sgd, theirs_sgd = (torch.optim.SGD(n.parameters(), 0.05, 0.9, weight_decay=1e-4) for n in (ours, theirs))
    take = make_step(ours, ours_sgd, replace(EAGER, precision="bfloat16"))
    for seed in range(3):
        images, labels = batch(seed=seed)
        with tape.Tape() as operations:
            take(images, labels)
        with torch.autocast("cpu", torch.bfloat16):
            logits = theirs(images.contiguous(memory_format=torch.channels_last)).float()
        theirs_sgd.zero_grad()
        F.cross_entropy(logits, labels).backward()
        theirs_sgd.step()
    for mine, autocasts in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(mine, autocasts)
    names = [operation.name() for operation, *_ in operations.calls]
    assert names.count("aten::_foreach_copy_") == 2
    assert names.count("aten::_to_copy") < 10, "of images, logits and the classifier's bias, there and back"


@pytest.mark.parametrize("own", [True, False])
def test_a_graph_keeps_what_it_reads_and_is_captured_on_the_threads_own_stream(monkeypatch, own):
    """CUDA's parts are made up: a real graph knows addresses alone, and no default stream can be captured."""
    for part in ("Stream", "stream", "current_stream", "default_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, part, MagicMock())
    if not own:
        monkeypatch.setattr(torch.cuda, "default_stream", torch.cuda.current_stream)
    read = torch.zeros(1)
    alive = weakref.ref(read)
    replay = capture(lambda read=read: read.add_(1))
    del read
    assert alive() == 4, "three steps on the way, one captured"
    replay()
    torch.cuda.CUDAGraph.return_value.replay.assert_called_once_with()
    expected = torch.cuda.current_stream if own else torch.cuda.Stream
    assert torch.cuda.graph.call_args.kwargs["stream"] is expected.return_value


def test_errors_are_counted():
    net = network(Spec((1,), (4,)))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0, fused=True)
    images, labels = batch()
    expected = int((copy.deepcopy(net)(images).argmax(1) != labels).sum())
    assert int(make_step(net, optimiser, EAGER)(images, labels)[1]) == expected


@pytest.mark.parametrize(
    ("device", "path", "why"),
    [
        (
            Device("cpu", True, True),
            ("bfloat16", False, False),
            "bfloat16 instructions, on a CPU compiled only for many bfloat16 steps",
        ),
        (
            Device("cpu", False, True),
            ("float32", False, False),
            "no fast bfloat16 here, on a CPU compiled only for many bfloat16 steps",
        ),
        (Device("cuda", True, True), ("bfloat16", True, True), "bfloat16 instructions"),
        (
            Device("cuda", True, False),
            ("bfloat16", False, True),
            "bfloat16 instructions, no kernels can be compiled here",
        ),
        (Device("cuda", False, True), ("float32", True, True), "no fast bfloat16 here"),
        (
            Device("mps", False, False),
            ("float32", False, False),
            "no fast bfloat16 here, no kernels can be compiled here, on the CPU, since MPS lacks the float64 that sums "
            "are in",
        ),
    ],
)
def test_the_path_follows_from_the_device(device, path, why):
    chosen = choose_path(device)
    assert ((chosen.precision, chosen.compiled, chosen.graph), chosen.why) == (path, why)
    assert chosen.device == ("cuda" if device.kind == "cuda" else "cpu")
    chosen = choose_path(device, "float32", False)
    assert (chosen.precision, chosen.compiled) == ("float32", False)
    assert (chosen.why == "as configured") == (device.kind != "mps")


def test_on_a_cpu_many_bfloat16_steps_repay_compiling():
    """A graph's device compiles for any number of steps; a CPU for the paper's 64,000 where it gains anything."""
    assert choose_path(Device("cuda", True, True), steps=1).compiled
    many = choose_path(Device("cpu", True, True), steps=64_000)
    assert (many.compiled, many.why) == (True, "bfloat16 instructions, many steps repay compiling")
    assert not choose_path(Device("cpu", True, True), steps=4_000).compiled
    assert not choose_path(Device("cpu", False, True), steps=64_000).compiled
    assert not choose_path(Device("cpu", True, True), precision="float32", steps=64_000).compiled
    without = choose_path(Device("cpu", True, False), steps=64_000)
    assert (without.compiled, without.why) == (False, "bfloat16 instructions, no kernels can be compiled here")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cuda"}, "one on a GPU and this machine has none"),
        ({"compiled": True}, "this machine has no compiler"),
        ({"threads": 10_000}, "one on 10000 CPU threads"),
    ],
)
def test_a_path_that_cannot_be_taken_is_refused_with_the_reason(monkeypatch, changes, reason):
    monkeypatch.setattr(step, "has_compiler", lambda _: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PathError, match=reason):
        take_path(replace(EAGER, **changes))


def test_a_path_brings_back_its_number_of_threads():
    take_path(replace(EAGER, threads=1))
    assert torch.get_num_threads() == 1
    assert choose_path(Device("cpu", True, True)).threads == EAGER.threads, "the next run is begun on as many as ever"


def test_on_a_gpu_the_number_of_cpu_threads_binds_nobody(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    take_path(replace(EAGER, device="cuda", threads=10_000))


def test_float32_is_rounded_nowhere(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    take_path(EAGER)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@COMPILER
def test_in_bfloat16_a_fused_norm_sums_in_float32():
    """The gradients of its weight and bias, beside those in double precision from the same rounded numbers."""
    norm, x = torch.nn.BatchNorm2d(8), torch.randn(16, 8, 6, 6).bfloat16().requires_grad_()
    exact, grad = copy.deepcopy(norm).double(), torch.randn(16, 8, 6, 6).bfloat16()
    NormReLU(norm)(x, None).backward(grad)
    exact(x.detach().double()).relu().backward(grad.double())
    for ours, truth in zip(norm.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), truth.grad, rtol=1e-4, atol=1e-3)
