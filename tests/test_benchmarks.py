import importlib.util
import json

from helpers import ROOT

FOLDER = ROOT / "benchmarks"


def test_the_page_says_what_was_measured():
    specification = importlib.util.spec_from_file_location("cpu", FOLDER / "cpu.py")
    cpu = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(cpu)
    results = json.loads((FOLDER / "cpu.json").read_text())
    assert (FOLDER / "cpu.md").read_text() == cpu.report(results), "write the page anew from cpu.json"
    assert {(row["depth"], row["subject"]) for row in results["rows"]} == {
        (d, s) for d in cpu.STEPS for s in cpu.SUBJECTS
    }
