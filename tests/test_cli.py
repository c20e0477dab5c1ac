import re

import pytest

from helpers.__main__ import exit_code
from helpers.runs import load_runs

QUICK = ["--data", "synthetic", "--steps", "4", "--eval-every", "2"]


def test_train_records_and_says_so(call, tmp_path):
    code, printed = call("train", "plain-8", *QUICK, "--seed", 3, "--out", tmp_path / "own")
    assert code == 0
    lines = printed.out.splitlines()
    assert [line.split("  ")[:2] for line in lines[:2]] == [["plain-8 seed 3", f"step {k}/4"] for k in (2, 4)]
    assert lines[-1] == str(tmp_path / "own" / "plain-8" / "seed-3")
    table = load_runs(tmp_path, "own")
    assert (table.data.unique(), table.steps.unique(), table.finished.all()) == (["synthetic"], [4], True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "resnet-57"], "unknown experiment 'resnet-57': did you mean resnet-56"),
        (["suite", "quikc"], "unknown suite 'quikc': did you mean quick"),
        (
            ["suite", "quick", "--only", "plain-32"],
            "unknown experiment of this suite 'plain-32': did you mean plain-20",
        ),
        (["suite", "quick", "--seed", "7"], "this suite has no seed 7: it has [0]"),
        (["notebooks", "77"], "unknown notebook '77': there are 0"),
        (["notebooks", "--profile", "slow"], "unknown profile 'slow': did you mean smoke?"),
        (
            ["notebooks", "06", "--set", "profle=quick"],
            "unknown parameter of 06_plain_vs_residual 'profle': did you mean",
        ),
        (["notebooks", "--jobs", "0"], "--jobs"),
        (["train"], "Missing argument"),
        (["train", "plain-8", "--data", "mnist"], "--data"),
        (["train", "plain-8", "--steps", "0"], "--steps"),
        (["tarin"], "tarin"),
    ],
)
def test_bad_usage_is_told_in_a_sentence_with_code_2(call, arguments, sentence):
    code, printed = call(*arguments)
    assert code == 2
    assert sentence in " ".join(printed.err.replace("│", " ").split())
    assert "Traceback" not in printed.err


def test_a_failed_job_is_told_in_a_sentence_with_code_1(call, offline, tmp_path):
    code, printed = call("data", "--root", tmp_path)
    assert code == 1 and printed.err.startswith("error: could not download") and "Traceback" not in printed.err
    call("train", "plain-8", *QUICK, "--out", tmp_path)
    code, printed = call("train", "plain-8", *QUICK[:-1], "3", "--out", tmp_path)
    assert code == 1 and "holds another run (eval_every 2 instead of 3)" in printed.err


def test_a_suite_lists_what_is_done_and_how_long_the_rest_takes(call, tmp_path):
    code, printed = call("suite", "smoke", "--only", "plain-8", "--out", tmp_path / "smoke")
    assert code == 0 and printed.out.splitlines()[-1] == "plain-8 seed 0: done"
    code, printed = call("suite", "smoke", "--list", "--out", tmp_path / "smoke")
    about, done, *missing = printed.out.splitlines()[:5]
    assert about == "suite smoke: seconds, to see that everything works"
    assert done == "plain-8 seed 0: done"
    for line, name in zip(missing, ("plain-20", "resnet-8", "resnet-20"), strict=True):
        assert re.fullmatch(rf"{name} seed 0: missing +~[\d.]+ (min|h), (as|scaled from) \S+/\S+", line)
    said = " ".join(printed.out.split())
    assert re.search(r"About [\d.]+ (min|h) in all on this machine.* This is an estimate", said)


def test_a_suite_is_recorded_as_asked(call, tmp_path, monkeypatch):
    import helpers.outlook  # noqa: F401  before record_suite is replaced, lest it keep the replacement

    asked = []
    monkeypatch.setattr("helpers.__main__.RUNS", tmp_path)
    monkeypatch.setattr("helpers.runs.record_suite", lambda *given: asked.append(given))
    monkeypatch.setattr("helpers.data.load_data", lambda *given: given)
    options = ["--only", "resnet-56-single", "--seed", 1, "--time-limit", 60, "--jobs", 3, "--data-root", tmp_path]
    assert call("suite", "variants", *options)[0] == 0
    [(chosen, *rest)] = asked
    assert [(run.name, run.config.seed) for run in chosen] == [("resnet-56-single", 1)]
    assert rest == [(tmp_path / "variants").resolve(), ("cifar10", tmp_path), 60, True, 3]


def test_a_bug_keeps_its_traceback():
    assert exit_code(KeyError("x")) is None and exit_code(RuntimeError("x")) is None
