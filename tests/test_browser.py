"""The course as a learner meets it: `make lab` in a real Chromium. What waits, waits for a condition, however long."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from helpers import ROOT

CHROMIUM = shutil.which("chromium")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", *QUIET]
SECOND = 1000  # Playwright's unit is the millisecond
expect.set_options(timeout=60 * SECOND)

# Whether a kernel is there: what JupyterLab is told to run before that, it drops. Its indicator says idle even then.
CONNECTED = """async name => (await (await fetch("/api/sessions")).json()).some(
    ({path, kernel}) => path == name && kernel.connections > 0 && kernel.execution_state == "idle"
)"""

MINE = """class MyBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        layers = [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x):
        return """


@contextmanager
def jupyter_lab(folder: Path):
    """What `make lab` runs, in a copy of the notebooks and with no settings but its own; the address it would open."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    recipe = re.search(r"^lab:.*\n\tcd notebooks && \S+/jupyter (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = [Path(sys.executable).with_name("jupyter"), *recipe[1].split(), "--no-browser", "--allow-root"]
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = os.environ | own | {"JUPYTER_TOKEN": "token", "IPYTHONDIR": str(folder / "IPYTHON")}
    with (folder / "log").open("w") as log:
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, cwd=folder / "notebooks", env=environment, **streams)
        try:
            address = None
            while not address:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
                pages = [page.read_text() for page in (folder / "RUNTIME").glob("jpserver-file-to-run-*.html")]
                address = re.search(r'href="(.+)"', "".join(pages))
            yield address[1]
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A fresh Chromium, at the address that `make lab` opens. Nothing that was started for it outlives it."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium: apt-get install chromium")
    folder = tmp_path_factory.mktemp("lab")
    before, started = set(psutil.Process().children(recursive=True)), set()
    options = {"executable_path": CHROMIUM, "args": ARGUMENTS, "viewport": {"width": 1400, "height": 1000}}
    try:
        with jupyter_lab(folder) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch_persistent_context(folder / "profile", **options)
            try:
                page = browser.pages[0]
                page.set_default_timeout(60 * SECOND)
                page.goto(address)
                yield page
            finally:
                started = set(psutil.Process().children(recursive=True)) - before
                browser.close()
    finally:
        left = psutil.wait_procs(started, timeout=60)[1]
        for process in left:
            process.kill()
        assert not left


def cells(page: Page, name: str):
    """The cells of the notebook in front, once they and its kernel are there, and the same cells in the file."""
    expect(page.locator(".jp-mod-current[role=tab]", has_text=name)).to_be_visible()
    in_file = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    shown = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell")
    expect(shown).to_have_count(len(in_file))
    page.wait_for_function(CONNECTED, arg=name)
    return shown, in_file


def assert_typeset(shown):
    """Markdown and formulas: MathJax has made something of every formula, and found no mistake in one."""
    markdown = shown.and_(shown.page.locator(".jp-MarkdownCell"))
    formula = markdown.locator("mjx-container").first
    expect(formula).to_be_attached()
    formula.scroll_into_view_if_needed()
    expect(formula).to_be_visible()
    expect(markdown.locator(".jp-RenderedMarkdown", has_text="$")).to_have_count(0)
    expect(markdown.locator("mjx-merror")).to_have_count(0)


def test_make_lab_opens_the_start_with_its_formulas_and_the_chapters_beside_it(page):
    shown = cells(page, "00_start_here.ipynb")[0]
    expect(shown.first.locator("h1")).to_have_text(re.compile("00 · Start here"))
    assert_typeset(shown)
    names = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    expect(page.locator(".jp-DirListing-itemText")).to_have_text(names)


def test_a_learner_runs_all_errs_is_told_how_mends_it_and_opens_the_solution(page):
    page.locator(".jp-DirListing-item", has_text="02_residual_block").dblclick()
    shown, in_file = cells(page, "02_residual_block.ipynb")
    assert_typeset(shown)

    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(shown.locator(".jp-InputPrompt", has_text="[1]")).to_have_count(1)
    expect(shown.locator(".jp-InputPrompt", has_text="[*]")).to_have_count(0, timeout=400 * SECOND)
    page.wait_for_function(CONNECTED, arg="02_residual_block.ipynb")
    expect(shown.locator(".jp-InputPrompt", has_text="[ ]")).to_have_count(0)
    for broken in ("error", "stderr"):
        expect(shown.locator(f"[data-mime-type='application/vnd.jupyter.{broken}']")).to_have_count(0)

    tags = [cell.metadata.get("tags", []) for cell in in_file]
    exercises = [number for number, tag in enumerate(tags) if "exercise" in tag]
    solutions = [number for number, tag in enumerate(tags) if "solution" in tag]
    assert len(exercises) == len(solutions) > 1
    for number in exercises:
        expect(shown.nth(number + 1)).to_contain_text("· Your turn: ")
    for number in solutions:
        expect(shown.nth(number).locator(".jp-OutputArea")).to_contain_text("✓ Right: ")
        shown.nth(number).scroll_into_view_if_needed()
        expect(shown.nth(number).get_by_title("Click to expand")).to_be_visible()
        expect(shown.nth(number).locator(".cm-content")).not_to_be_visible()

    stub, check, solution = shown.nth(exercises[0]), shown.nth(exercises[0] + 1), shown.nth(solutions[0])
    for answer, verdict in (
        ("self.branch(x).relu()", "✗ Not yet: x is never added"),
        ("(self.branch(x) + x).relu()", "✓ Right: two 3x3 layers, the input added"),
    ):
        stub.locator(".cm-content").click()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text(MINE + answer)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        expect(check.locator(".jp-OutputArea")).to_contain_text(verdict)

    before = solution.locator(".jp-OutputPrompt").text_content()
    solution.get_by_title("Click to expand").click()
    expect(solution.locator(".cm-content")).to_be_visible()
    expect(solution.locator(".cm-content")).to_contain_text("class MyBlock")
    solution.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(solution.locator(".jp-OutputPrompt")).not_to_have_text(before)
    expect(solution.locator(".jp-OutputArea")).to_contain_text("✓ Right: ")
