import dataclasses
import itertools

import pytest
import tape
import torch
import torch.nn.functional as F
from recorded import without_clock

from helpers.checkpoint import CheckpointError, load, save
from helpers.config import Config, Schedule
from helpers.data import Split, batches, channel_statistics, draw_steps, mean_image, normalise, synthetic
from helpers.experiments import DEVIATIONS, EXPERIMENTS
from helpers.models import Spec, cifar_spec
from helpers.step import has_compiler
from helpers.train import NotFinite, advance, evaluate, make_plans, prepare, start, train

COMPILER = pytest.mark.skipif(not has_compiler("cpu"), reason="no C++ compiler here")


def test_the_papers_schedule():
    schedule = Schedule()
    rates = {step: schedule.lr_at(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    expected = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    assert rates == pytest.approx(expected)
    assert schedule.steps == 64_000


def test_the_warm_up_waits_for_the_gate_and_leaves_the_milestones_alone():
    schedule = Schedule(warmup_lr=0.01)
    assert schedule.lr_at(5, gate_open=False) == 0.01
    assert schedule.lr_at(5, gate_open=True) == 0.1
    assert schedule.lr_at(32_000, gate_open=True) == pytest.approx(0.01)


def test_a_shortened_schedule_keeps_its_shape():
    short = Schedule(warmup_lr=0.01).shortened(4000)
    assert (short.steps, short.milestones, short.warmup_lr) == (4000, (2000, 3000), 0.01)


def test_a_configuration_survives_json(tiny_config):
    assert Config.from_dict(tiny_config.as_dict()) == tiny_config


def test_initial_weights_depend_on_the_seed_alone(tiny_config):
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = start(tiny_config).network.fc.weight
    assert torch.equal(torch.rand(1), before), "the caller's random numbers are left alone"
    assert torch.equal(first, start(tiny_config).network.fc.weight)
    assert not torch.equal(first, start(dataclasses.replace(tiny_config, seed=1)).network.fc.weight)


def test_rows_are_what_they_say(tiny_config, tiny_data):
    """The running loss and error of each interval, against a loop written out with torch's own parts."""
    config = dataclasses.replace(tiny_config, eval_every=7)
    rows = list(train(start(config), tiny_data.train, tiny_data.test))
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    net = start(config).network.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    stream = batches(tiny_data.train, 16, seed=0)
    for row, count in zip(rows, [7] * 8 + [4], strict=True):
        losses, errors = [], 0
        for step, (images, labels) in enumerate(itertools.islice(stream, count), start=row["step"] - count):
            optimiser.param_groups[0]["lr"] = 0.1 if step < 30 else 0.01 if step < 45 else 0.001
            logits = net(images)
            loss = F.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            errors += int((logits.argmax(1) != labels).sum())
        assert row["train_loss"] == pytest.approx(sum(losses) / count, rel=1e-2)
        assert row["train_error"] == pytest.approx(100 * errors / (16 * count), abs=2)
        test_loss, test_error = evaluate(net, tiny_data.test, mean_image(tiny_data.train))
        assert row["test_loss"] == pytest.approx(test_loss, rel=2e-2)
        assert row["test_error"] == pytest.approx(test_error, abs=10.1)
        assert row["lr"] == pytest.approx(optimiser.param_groups[0]["lr"])


def test_evaluation_is_the_mean_over_the_split(tiny_config, tiny_data):
    net, mean = start(tiny_config).network, mean_image(tiny_data.train)
    loss, error = evaluate(net, tiny_data.test, mean, batch_size=7)
    with torch.no_grad():
        logits = net.eval()(normalise(tiny_data.test.images, mean))
    assert loss == pytest.approx(float(F.cross_entropy(logits, tiny_data.test.labels)), rel=1e-5)
    assert error == 100 * int((logits.argmax(1) != tiny_data.test.labels).sum()) / 20


def test_a_net_learns_what_a_linear_classifier_cannot():
    """Under 30 % where a linear classifier stays above 50 (test_data)."""
    data = synthetic(2000, 500)
    config = Config(Spec((1, 1, 1), (16, 32, 64)), Schedule().shortened(120), batch_size=64, eval_every=120)
    assert next(train(start(config), *data))["test_error"] < 30


def gate_history(config, split, lr_when_open):
    state = start(config)
    rows = list(train(state, split, split))
    return [row["lr"] == pytest.approx(lr_when_open) for row in rows], state


def test_the_gate_opens_on_training_error_below_80_and_stays_open(tiny_data):
    """Images whose labels are noise never open it; ten that can be learnt do, at a multiple of a hundred steps."""
    spec, schedule = Spec((1,), (4,)), Schedule(steps=300, milestones=(1000, 2000), lr=0.05, warmup_lr=0.01)
    config = Config(spec, schedule, batch_size=16, eval_every=50, precision="float32", compiled=False)
    opened, state = gate_history(config, tiny_data.train, 0.05)
    assert opened[:2] == [False, False] and opened[-1] and bool(state.gate)
    assert opened == sorted(opened)
    noise = torch.randint(0, 256, (5000, 3, 8, 8), dtype=torch.uint8)
    opened, state = gate_history(config, Split(noise, torch.randint(10, (5000,))), 0.05)
    assert not any(opened) and not bool(state.gate)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
def test_the_gate_looks_at_each_hundred_steps_by_themselves(tiny_config, compiled):
    """Errors of a made-up step: all wrong, then 80 % exactly, which is not below 80, then one image fewer."""
    schedule = Schedule(steps=1000, milestones=(2000, 3000), lr=0.1, warmup_lr=0.01)
    state = start(dataclasses.replace(tiny_config, schedule=schedule, batch_size=10, compiled=compiled))
    wrong = [10] * 100 + [8] * 100 + [8] * 99 + [7] + [10] * 200
    rates = []
    for errors in wrong:
        made_up = torch.tensor(1.0), torch.tensor(errors)
        advance(state, lambda images, labels, made_up=made_up: made_up, None, None, torch.tensor(0.1))
        rates.append(round(float(state.optimiser.param_groups[0]["lr"]), 6))
    assert rates == [0.01] * 300 + [0.1] * 200
    assert (state.step, int(state.errors), float(state.loss), int(state.not_finite)) == (500, sum(wrong), 500, -1)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
def test_a_prepared_step_gets_the_streams_batches_and_the_schedules_rates(
    monkeypatch, tiny_config, tiny_data, compiled
):
    """Over ends of epochs (every fourth batch) and of plans."""
    config = dataclasses.replace(tiny_config, compiled=compiled, eval_every=9)
    state, seen = start(config), []

    def look(state, step, *batch):
        seen.append(batch)
        state.clock += 1

    monkeypatch.setattr("helpers.train.advance", look)
    plans = list(make_plans(config, 60, 0))
    place, take_step = prepare(state, tiny_data.train, plans[0])
    for plan in plans:
        place(plan)
        for _ in plan.rates:
            take_step()
    assert len(seen) == 60
    stream = batches(tiny_data.train, 16, seed=0)
    for step, (images, labels, rate) in enumerate(seen):
        expected = next(stream)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
        assert float(rate) == pytest.approx(config.schedule.lr_at(step))


GATED = Schedule(steps=230, milestones=(120, 210), lr=0.05, warmup_lr=0.01)


@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": GATED, "eval_every": 50}, {"decay_all": False}, {"precision": "bfloat16"}],
    ids=["milestones", "gate", "two groups", "bfloat16"],
)
def test_a_captured_step_replayed_is_the_step(monkeypatch, tmp_path, tiny_config, tiny_data, changes):
    """Bit for bit, over milestones, the gate and epochs, from the start and resumed; and no number is waited for."""
    config = dataclasses.replace(tiny_config, **changes)
    plain = start(config)
    rows = list(train(plain, tiny_data.train, tiny_data.test))
    monkeypatch.setattr("helpers.train.capture", tape.capture)
    replayed = start(config, path=dataclasses.replace(plain.path, graph=True))
    for _ in itertools.islice(train(replayed, tiny_data.train, tiny_data.test), 2):
        save(replayed, tmp_path / "c")
    replayed = load(tmp_path / "c")
    later = list(train(replayed, tiny_data.train, tiny_data.test))
    for row, expected in zip(later, rows[2:], strict=True):
        assert without_clock(row) == without_clock(expected)
    assert all(torch.equal(a, b) for a, b in zip(plain.tensors().values(), replayed.tensors().values(), strict=True))
    assert bool(plain.gate), "the gate's opening was part of the run"


def test_evaluating_more_or_less_often_changes_no_weight(tiny_data):
    spec, schedule = Spec((1,), (4,)), Schedule(steps=230, milestones=(1000, 2000), lr=0.05, warmup_lr=0.01)
    weights = []
    for every in (230, 33):
        config = Config(spec, schedule, batch_size=16, eval_every=every, precision="float32", compiled=False)
        state = start(config)
        list(train(state, tiny_data.train, tiny_data.test))
        weights.append(state.tensors())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))


def test_an_interval_beyond_the_schedule_is_the_schedule(tiny_config, tiny_data):
    state = start(dataclasses.replace(tiny_config, eval_every=10**12), "cpu")
    assert [row["step"] for row in train(state, tiny_data.train, tiny_data.test)] == [60]


def test_a_block_begins_as_its_shortcut_with_split_norms_too(tiny_config):
    network = start(dataclasses.replace(tiny_config, norm_parts=2, initialisation="zero last"), "cpu").network
    assert not network.blocks[0].bn2.weight.any()


def test_weight_decay_can_leave_norms_and_biases_out(tiny_config):
    groups = start(dataclasses.replace(tiny_config, decay_all=False)).optimiser.param_groups
    decayed = [p.ndim for p in groups[0]["params"]]
    assert set(decayed) == {2, 4} and groups[0]["weight_decay"] == 1e-4
    assert {p.ndim for p in groups[1]["params"]} == {1} and groups[1]["weight_decay"] == 0
    assert len(start(tiny_config).optimiser.param_groups) == 1


def test_both_groups_follow_the_schedule(tiny_config, tiny_data):
    state = start(dataclasses.replace(tiny_config, decay_all=False))
    before = state.network.stem[1].bias.clone()
    next(train(state, tiny_data.train, tiny_data.test))
    assert not torch.equal(before, state.network.stem[1].bias)


def test_held_out_images_are_evaluated_on_and_never_trained_on(tiny_config, tiny_data):
    whole, config = tiny_data.train, dataclasses.replace(tiny_config, held_out=10)
    kept = Split(whole.images[:50], whole.labels[:50])
    rest = Split(whole.images[50:], whole.labels[50:])
    row, expected = next(train(start(config), whole, tiny_data.test)), next(train(start(tiny_config), kept, rest))
    assert without_clock(row) == without_clock(expected)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_rate(tiny_config, tiny_data):
    config = dataclasses.replace(tiny_config, schedule=Schedule(steps=60, milestones=(5, 45), lr=1e30))
    with pytest.raises(NotFinite, match=r"step [1-5] \(learning rate 1e\+30\)"):
        list(train(start(config), tiny_data.train, tiny_data.test))


def test_a_net_broken_by_the_last_step_is_noticed_too(tiny_config, tiny_data):
    state = start(dataclasses.replace(tiny_config, schedule=Schedule(steps=1, milestones=(1,), lr=1e38)))
    with pytest.raises(NotFinite, match="step 1"):
        next(train(state, tiny_data.train, tiny_data.test))


@pytest.mark.parametrize(
    ("field", "value", "known"),
    [
        ("precision", "bf16", "auto, float32, bfloat16"),
        ("padding", "zero", "zeros, black, reflect"),
        ("sampling", "random", "epochs, replacement, drop last"),
        ("initialisation", "xavier", "fan in, fan out, zero last, near identity"),
    ],
)
def test_an_unknown_choice_is_refused(tiny_config, field, value, known):
    with pytest.raises(ValueError, match=f"unknown {field} '{value}': choose {known}"):
        dataclasses.replace(tiny_config, **{field: value})


def test_images_left_out_are_neither_trained_nor_evaluated_on(tiny_config, tiny_data):
    fewer = Split(tiny_data.train.images[:50], tiny_data.train.labels[:50])
    expected = next(train(start(tiny_config), fewer, tiny_data.test))
    row = next(train(start(dataclasses.replace(tiny_config, left_out=10)), *tiny_data[1:3]))
    assert without_clock(row) == without_clock(expected)


def first_losses(config, data, count=5):
    """Of single steps, by the training loop."""
    stepwise = dataclasses.replace(config, eval_every=1)
    return [row["train_loss"] for row in itertools.islice(train(start(stepwise), *data[1:3]), count)]


DEPARTURES = {
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
    "float32": {"precision": "float32"},
}


@pytest.mark.parametrize("depth", [20, 56])
def test_a_deviation_is_the_recipe_with_what_its_name_says(depth):
    usual = EXPERIMENTS[f"resnet-{depth}"]
    assert usual == Config(cifar_spec(depth))
    for name, how in DEPARTURES.items():
        assert EXPERIMENTS[f"resnet-{depth}-{name}"] == dataclasses.replace(usual, **how), name
    assert set(DEVIATIONS) == set(DEPARTURES)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_every_deviation_changes_the_run_and_nothing_else_does(tiny_config, tiny_data, name):
    how = {"left_out": 10} if name == "45k" else DEVIATIONS[name]  # there are sixty images
    usual = dataclasses.replace(tiny_config, precision="bfloat16")
    config = dataclasses.replace(usual, **how)
    assert first_losses(config, tiny_data) == first_losses(config, tiny_data)
    assert first_losses(config, tiny_data) != first_losses(usual, tiny_data)


def test_nesterovs_correction_is_torchs(tiny_config, tiny_data):
    config = dataclasses.replace(tiny_config, nesterov=True)
    net, losses = start(config).network.train(), []
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    for images, labels in itertools.islice(batches(tiny_data.train, 16, seed=0), 3):
        losses.append(F.cross_entropy(net(images), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert first_losses(config, tiny_data, 3) == pytest.approx([loss.item() for loss in losses], rel=1e-4)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILER)])
def test_an_interval_that_was_broken_off_is_finished(tiny_config, tiny_data, monkeypatch, compiled):
    """As by ■ in JupyterLab, where the state lives on: the same images at the same rates, none twice."""
    config = dataclasses.replace(tiny_config, compiled=compiled)
    whole, state, taken = start(config), start(config), itertools.count(1)
    rows, real = list(train(whole, *tiny_data[1:3])), advance

    def interrupted(*arguments):
        if next(taken) == 25:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr("helpers.train.advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(train(state, *tiny_data[1:3]))
    assert state.step == 24
    later = list(train(state, *tiny_data[1:3]))
    assert [row["step"] for row in later] == [30, 40, 50, 60]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, state.tensors()[name]), name
    for row, expected in zip(later[1:], rows[3:], strict=True):
        assert row["train_loss"] == expected["train_loss"] and row["train_error"] == expected["train_error"]
    assert 0 <= later[0]["train_error"] <= 100


def test_channels_can_be_standardised_for_training_and_evaluation(tiny_config, tiny_data, monkeypatch):
    config = dataclasses.replace(tiny_config, channel_statistics=True)
    state = start(config)
    row = next(train(state, *tiny_data[1:3]))
    mean, std = channel_statistics(tiny_data.train)
    with torch.no_grad():
        logits = state.network.eval()((tiny_data.test.images / 255 - mean) / std)
    assert row["test_loss"] == pytest.approx(float(F.cross_entropy(logits, tiny_data.test.labels)), rel=1e-4)
    seen = []
    monkeypatch.setattr("helpers.train.advance", lambda state, step, images, *_: seen.append(images))
    plan = next(make_plans(config, 60, 0))
    place, take_step = prepare(start(config), tiny_data.train, plan)
    place(plan)
    take_step()
    images, _ = next(batches(tiny_data.train, 16, seed=0, mean=mean))
    torch.testing.assert_close(seen[0], images / std)


def test_a_saved_state_goes_on_as_the_uninterrupted_run(tmp_path, tiny_config, tiny_data):
    state = start(tiny_config)
    rows = list(train(state, tiny_data.train, tiny_data.test))
    other = start(tiny_config)
    for _ in itertools.islice(train(other, tiny_data.train, tiny_data.test), 2):
        save(other, tmp_path / "c")
    resumed = load(tmp_path / "c")
    assert (resumed.step, resumed.config, resumed.path) == (20, tiny_config, state.path)
    later = list(train(resumed, tiny_data.train, tiny_data.test))
    for row, expected in zip(later, rows[2:], strict=True):
        assert without_clock(row) == without_clock(expected)
    assert all(torch.equal(a, b) for a, b in zip(state.tensors().values(), resumed.tensors().values(), strict=True))
    assert not list(tmp_path.glob("*.part"))


def test_a_changed_byte_anywhere_in_a_checkpoint_is_noticed(tmp_path, tiny_config):
    """In the weights, in their names and shapes, in the configuration, in the step."""
    save(start(tiny_config), tmp_path / "c")
    content = (tmp_path / "c").read_bytes()
    changed = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(0, len(content), 7)]
    for bad in [*changed, content.replace(b'"F32"', b'"I32"', 1), content.replace(b"[4,3,3,3]", b"[4,9,1,3]", 1)]:
        (tmp_path / "c").write_bytes(bad)
        with pytest.raises(CheckpointError, match="delete it to start over"):
            load(tmp_path / "c")


def test_a_checkpoint_of_another_version_is_refused(tmp_path, tiny_config, monkeypatch):
    state = start(tiny_config, "cpu")
    tensors = state.tensors()
    monkeypatch.setattr(type(state), "tensors", lambda _: tensors | {"clock of old": state.clock.clone()})
    save(state, tmp_path / "checkpoint")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="was saved by another version"):
        load(tmp_path / "checkpoint")


@pytest.mark.parametrize("in_lab", [True, False])
def test_a_bar_is_shown_in_jupyterlab_and_not_in_papermill(tiny_config, tiny_data, monkeypatch, capsys, in_lab):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if in_lab:
        monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/06_plain_vs_residual.ipynb")
    next(train(start(tiny_config), tiny_data.train, tiny_data.test))
    out, err = capsys.readouterr()
    assert ("/60" in out) == in_lab and err == ""


def test_a_run_sees_the_batches_of_its_own_seed(tiny_config):
    plan, drawn = next(make_plans(dataclasses.replace(tiny_config, seed=3), 60, 0)), draw_steps(60, 16, 3, 0, 10)
    assert all(torch.equal(part, expected) for part, expected in zip(plan[:3], drawn, strict=True))


def test_in_bfloat16_too_the_net_is_evaluated_in_float32(tiny_config, tiny_data):
    state = start(dataclasses.replace(tiny_config, precision="bfloat16"), "cpu")
    row = next(train(state, *tiny_data[1:3]))
    loss, error = evaluate(state.network, tiny_data.test, mean_image(tiny_data.train))
    assert (row["test_loss"], row["test_error"]) == (pytest.approx(loss, rel=1e-6), error)


def test_every_net_of_the_paper_has_the_papers_recipe():
    """Sec. 4.2, written out once more."""
    warm = Schedule(64_000, (32_000, 48_000), 0.1, warmup_lr=0.01, gate_error=80.0)
    expected = {f"plain-{depth}": Config(cifar_spec(depth, "plain")) for depth in (20, 32, 44, 56)}
    expected |= {f"resnet-{depth}": Config(cifar_spec(depth, "A")) for depth in (20, 32, 44, 56)}
    expected |= {f"resnet-{d}-{option}": Config(cifar_spec(d, option)) for d in (20, 56) for option in ("B", "C")}
    expected |= {"plain-110": Config(cifar_spec(110, "plain"), warm)}
    expected |= {f"resnet-{depth}": Config(cifar_spec(depth, "A"), warm) for depth in (110, 1202)}
    expected |= {"resnet-110-no-warmup": Config(cifar_spec(110))}
    expected |= {"resnet-20-float32": Config(cifar_spec(20), precision="float32")}
    expected |= {"plain-56-float32": Config(cifar_spec(56, "plain"), precision="float32")}
    for name, config in expected.items():
        assert EXPERIMENTS[name] == config, name


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_mode(tiny_config, tiny_data, training):
    network = start(tiny_config).network.train(training)
    evaluate(network, tiny_data.test, mean_image(tiny_data.train))
    assert all(module.training == training for module in network.modules())
