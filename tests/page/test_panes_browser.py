"""The panes in headless Chromium: counterparts light, search goes there, links hold, nothing runs or loads."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

import msgspec
import pytest
from panes_run import CAME, LINES, USER, kernel_id, kernel_name, made_run

from fuselab.page.panes import kernel_anchor, line_anchor, panes
from fuselab.records import Artifact, Sample
from fuselab.store import Run

pytestmark = pytest.mark.slow

PATIENCE_MS = 60_000
AXE = Path(__file__).with_name("axe") / "axe.min.js"
PAYLOADS = (
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg/onload=window.hit=1>",
    "javascript:window.hit=1//",
    '"><iframe srcdoc="<script>parent.hit=1</script>">',
    "'-window.hit=1-'",
    "{{constructor.constructor('window.hit=1')()}}",
    "${window.hit=1}",
    "<!--<script>",
    "]]><style>@import'http://127.0.0.1:9/x'</style>",
    '<a href="http://127.0.0.1:9/">x</a><link rel=stylesheet href=http://127.0.0.1:9/y>',
    "\u202e\u2028\u2029\x85",
)


@dataclass
class Driven:
    """A page in the browser, with what it said and asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def goto(self, file: Path, anchor: str = "") -> None:
        """Open a file at an address within it."""
        self.page.goto(f"{file.as_uri()}{anchor}", wait_until="load")

    def lit(self, stage: str) -> set[int]:
        """Numbers of the lines that are lit in a pane, as far as they are drawn."""
        rows = self.page.locator(f'.fp-pane[data-stage="{stage}"] .fp-lit .fp-label').all_text_contents()
        return {int(row) for row in rows}

    def until(self, condition: str) -> None:
        """Wait until an expression holds; Playwright's own way needs eval, which the page's policy forbids."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def open(self, stage: str) -> None:
        """Open a pane that is closed."""
        button = self.page.locator(f'[data-stage-button="{stage}"]')
        if button.get_attribute("aria-pressed") == "false":
            button.click()

    def click(self, stage: str, line: int) -> None:
        """Select a line that is in sight."""
        row = self.page.locator(
            f'.fp-pane[data-stage="{stage}"] .fp-row', has=self.page.get_by_text(str(line), exact=True)
        )
        row.first.locator(".fp-code").click(position={"x": 4, "y": 8})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = which("chromium") or which("chromium-browser") or which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def drive(browser: Any) -> Iterator[Callable[..., Driven]]:
    contexts = []

    def start(width: int = 1280, **options: Any) -> Driven:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        driven = Driven(context.new_page())
        driven.page.on("console", lambda message: driven.said.append(message.text))
        driven.page.on("pageerror", lambda error: driven.said.append(str(error)))
        driven.page.on("request", lambda request: driven.asked.append(request.url))
        return driven

    yield start
    for context in contexts:
        context.close()


def written(file: Path, *runs: Run) -> Path:
    """A page of nothing but the panes, under the policy that the report has."""
    made = panes(runs, redact=lambda text: text)
    style = "body{margin:16px;font:15px/1.5 sans-serif}" + made.style
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (made.script, style)]
    policy = f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'"
    data = "".join(
        f'<script type="application/octet-stream" id="data-{html.escape(name)}">{text}</script>'
        for name, text in ((name, base64.b64encode(raw).decode()) for name, raw in made.data.items())
    )
    file.write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>panes</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"<body><main><h1>Panes</h1>{made.html}</main>{data}<script>{made.script}</script></body></html>",
        encoding="utf-8",
    )
    return file


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("panes")
    return written(root / "page.html", made_run(root, kernels=2))


def test_a_line_lights_its_counterparts_in_every_pane(drive: Callable[..., Driven], page_file: Path) -> None:
    driven = drive()
    driven.goto(page_file, kernel_anchor(0, kernel_id()))
    driven.page.wait_for_selector('.fp-pane[data-stage="ptx"] .fp-row')
    for stage in ("ttir", "output_code"):
        driven.open(stage)
    for line in LINES:
        driven.click("triton", line.line)
        assert driven.lit("triton") == {line.line}
        for stage in CAME:
            assert driven.lit(stage) == set(line.became.get(stage, ())), (line.line, stage)
        assert driven.lit("user") == {int(user.rpartition(":")[2]) for user in line.user}
        assert driven.lit("post_grad_graph") == {{"mul": 4, "add": 7}[node] for node in line.nodes}
        assert driven.lit("output_code") == {line.line + 3}  # the source begins in the output code's fourth line
    for stage, table in CAME.items():
        for line_there, places in table.items():
            driven.click(stage, line_there)
            assert driven.lit("triton") == set(places), (stage, line_there)
            assert line_there in driven.lit(stage)
    driven.click("user", 10)
    assert driven.lit("triton") == {6, 7}
    assert driven.lit("ptx") == {6, 7, 8}
    driven.click("post_grad_graph", 7)
    assert driven.lit("triton") == {8, 9}
    assert driven.lit("user") == {11}
    driven.click("triton", 8)
    assert "No instruction of its own" in driven.page.locator(".fp-status").inner_text()
    assert driven.said == []
    assert driven.asked == [driven.asked[0]]


def test_links_restore_after_a_reload(drive: Callable[..., Driven], page_file: Path) -> None:
    driven = drive()
    driven.goto(page_file, line_anchor(0, kernel_id(1), "ptx", 7))
    for _ in range(2):
        driven.page.wait_for_selector('.fp-pane[data-stage="ptx"] .fp-selected')
        assert driven.page.locator(".fp-title").inner_text() == kernel_name(1)
        assert driven.lit("ptx") == {7, 8}
        assert driven.lit("triton") == {7}
        driven.page.reload()
    driven.page.wait_for_selector(".fp-selected")
    driven.click("triton", 9)
    assert driven.page.evaluate("location.hash") == line_anchor(0, kernel_id(1), "triton", 9)
    for wrong in (
        "#line/0/nothing/ptx/7",
        "#line/0/%E0%A4%A/ptx/7",
        line_anchor(0, kernel_id(), "ptx", 9999),
        "#line/",
    ):
        driven.page.evaluate("address => { location.hash = address; }", wrong)
    driven.until("document.querySelector('.fp-status').textContent.length > 0")
    assert driven.said == []


def test_search_finds_and_goes_there(drive: Callable[..., Driven], page_file: Path) -> None:
    driven = drive()
    driven.goto(page_file, kernel_anchor(0, kernel_id()))
    driven.page.wait_for_selector(".fp-row")
    driven.page.fill("#fp-query", "LD.GLOBAL")
    driven.until("document.querySelector('.fp-hit-status').textContent.startsWith('2 lines')")
    driven.page.press("#fp-query", "Enter")
    driven.page.wait_for_selector('.fp-pane[data-stage="ptx"] .fp-selected')
    assert driven.page.evaluate("location.hash") == line_anchor(0, kernel_id(), "ptx", 6)
    driven.page.fill("#fp-query", "no such text")
    driven.until("document.querySelector('.fp-hit-status').textContent.startsWith('0 lines')")
    driven.page.fill("#fp-query", "arith.mulf")
    driven.page.wait_for_selector(".fp-hits a")
    driven.page.press("#fp-query", "ArrowDown")
    driven.page.keyboard.press("Enter")
    driven.page.wait_for_selector('.fp-pane[data-stage="ttir"] .fp-selected')
    assert driven.said == []


def test_everything_is_reached_by_keyboard(drive: Callable[..., Driven], page_file: Path) -> None:
    driven = drive()
    driven.goto(page_file, line_anchor(0, kernel_id(), "triton", 6))
    driven.page.wait_for_selector(".fp-selected")
    assert driven.page.evaluate("document.activeElement.getAttribute('role')") == "listbox"
    driven.page.keyboard.press("ArrowDown")
    assert driven.lit("ptx") == {7, 8}
    driven.page.keyboard.press("]")
    assert driven.page.evaluate("document.activeElement.closest('.fp-pane').dataset.stage") == "ptx"
    driven.page.keyboard.press("n")
    assert violations(driven) == []
    active = driven.page.evaluate("document.activeElement.getAttribute('aria-activedescendant')")
    assert active == "fp-ptx-7"  # of the lit lines 7 and 8 the second, counted from 0
    driven.page.keyboard.press("/")
    assert driven.page.evaluate("document.activeElement.id") == "fp-query"
    driven.page.get_by_role("button", name="Expand").press("Enter")
    assert driven.page.locator(".fp-wide").count() == 1
    driven.page.keyboard.press("Escape")
    assert driven.page.locator(".fp-wide").count() == 0


def violations(driven: Driven) -> list[Any]:
    """What axe-core finds to be serious in the panes."""
    driven.page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found = driven.page.evaluate(
        """axe.run({ include: [['#way-down']] }, { resultTypes: ['violations'] }).then((all) => all.violations
             .filter((one) => ['serious', 'critical'].includes(one.impact))
             .map((one) => [one.id, one.nodes.map((node) => node.html)]))"""
    )
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_has_one_pane_and_no_sideways_scroll(
    drive: Callable[..., Driven], page_file: Path, scheme: str
) -> None:
    driven = drive(390, color_scheme=scheme)
    driven.goto(page_file, line_anchor(0, kernel_id(), "triton", 7))
    driven.page.wait_for_selector(".fp-selected")
    assert driven.page.locator(".fp-pane").count() == 1
    assert violations(driven) == []
    assert driven.page.evaluate("document.documentElement.scrollWidth") <= 390
    badge = driven.page.locator('[data-stage-button="ptx"] .fp-badge')
    assert badge.inner_text() == "2"
    driven.page.locator('[data-stage-button="ptx"]').click()
    assert driven.lit("ptx") == {7, 8}


def test_what_is_absent_says_why(drive: Callable[..., Driven], page_file: Path) -> None:
    driven = drive()
    driven.goto(page_file, kernel_anchor(0, kernel_id()))
    driven.page.wait_for_selector(".fp-row")
    assert "SASS is not here: no nvdisasm" in driven.page.locator(".fp-missing").inner_text()
    driven.open("sass")
    assert driven.page.locator('.fp-pane[data-stage="sass"]').inner_text().endswith("Absent: no nvdisasm")
    driven.page.locator(".fp-breaks a").click()
    driven.page.wait_for_selector('.fp-pane[data-stage="user"] .fp-selected')
    shown = driven.page.locator('.fp-pane[data-stage="user"]').inner_text()
    assert "graph break: print" in shown
    assert USER in shown


def test_payloads_are_shown_and_run_nothing(drive: Callable[..., Driven], tmp_path: Path) -> None:
    driven = drive()
    runs = [made_run(tmp_path, payload=payload) for payload in PAYLOADS]
    driven.goto(written(tmp_path / "page.html", *runs))
    for number, payload in enumerate(PAYLOADS):
        driven.page.evaluate("to => { location.hash = to; }", kernel_anchor(number, kernel_id(0, payload)))
        title = kernel_name(0) + payload
        driven.until(f"document.querySelector('.fp-title')?.textContent === {json.dumps(title)}")
        for stage in ("output_code", "sass", "user"):
            driven.open(stage)
        driven.page.select_option("#fp-scope", "one")
        driven.page.fill("#fp-query", payload[:6])
        driven.until("document.querySelector('.fp-hit-status').textContent.endsWith('lines')")
        assert driven.page.evaluate("window.hit") is None, payload
        assert driven.page.locator("img, iframe, svg, link, style:nth-of-type(2)").count() == 0, payload
    assert len(driven.asked) == 1
    assert driven.said == []


def test_200_kernels_and_50_mb_open_scroll_and_are_searched(drive: Callable[..., Driven], tmp_path: Path) -> None:
    run = made_run(tmp_path, kernels=200, filler=125_000)
    file = written(tmp_path / "page.html", run)
    driven = drive()
    driven.goto(file, kernel_anchor(0, kernel_id(150)))
    driven.page.wait_for_selector('.fp-pane[data-stage="ptx"] .fp-row')
    assert driven.page.locator(".fp-title").inner_text() == kernel_name(150)
    assert driven.page.locator(".fp-row").count() < 1000
    pane = driven.page.locator('.fp-pane[data-stage="ptx"] .fp-scroll')
    pane.focus()
    driven.page.keyboard.press("End")
    driven.until(
        "document.querySelector('.fp-pane[data-stage=ptx] .fp-selected .fp-code').textContent === 'needle_150'"
    )
    driven.page.fill("#fp-query", "needle_77")
    driven.page.wait_for_selector(".fp-hits a")
    driven.page.locator(".fp-hits a").first.click()
    driven.until(f"document.querySelector('.fp-title').textContent === '{kernel_name(77)}'")
    driven.page.wait_for_selector(".fp-selected")
    driven.page.fill(".fp-filter", "mul_19")
    assert driven.page.locator(".fp-kernels a").count() == 11  # 19 and 190 to 199
    assert driven.said == []


_OF_THEIR_OWN = 200
"""Kernels of the huge run that have files of their own."""


@dataclass
class Huge:
    """A run of 500 MB and 10,000 kernels, and its page as the command line wrote it."""

    run: Run
    page: Path
    seconds: float
    peak_bytes: int

    def file(self, number: int) -> Path:
        """Where the PTX of a kernel is."""
        return self.run.path / f"kernels/{kernel_id(number % _OF_THEIR_OWN)}/ptx"


_MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A command's peak in KiB, asked for by a small process: it begins with its parent's, and pytest's is gigabytes."""


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Huge]:
    """With one text of 1 GiB, of which the disk holds 3 MB, and figures that are no numbers.

    The files are those of 200 kernels, which the others name as well: a directory for each of 10,000 takes a slow disk
    minutes.
    """
    root = tmp_path_factory.mktemp("huge")
    run = made_run(root, kernels=_OF_THEIR_OWN, filler=1_250_000)
    made = Huge(run, root / "page.html", 0.0, 0)
    metadata = run.metadata()
    kernels, artifacts = list(metadata.kernels), list(metadata.artifacts)
    own: dict[str | None, list[Artifact]] = {}
    for one in metadata.artifacts:
        own.setdefault(one.kernel_id, []).append(one)
    for number in range(_OF_THEIR_OWN, 10_000):
        like = metadata.kernels[number % _OF_THEIR_OWN]
        named = {"kernel_id": kernel_id(number)}
        kernels.append(msgspec.structs.replace(like, name=kernel_name(number), **named))
        artifacts += [msgspec.structs.replace(one, **named) for one in own[like.kernel_id]]
    run.update(kernels=kernels, artifacts=artifacts)
    with made.file(0).open("a") as file:
        file.write("  add.f32 %f1, %f2, %f3;\n" * 120_000)
        file.truncate(1 << 30)
    card = made.file(1).with_name("card.json")
    card.write_text('{"limiter": {"predicted": "memory", "device": "H200", "time_us": NaN, "share": Infinity}}')
    (cell,) = run.measurements()
    odd = [Sample(round=0, position=0, duration_ns=float("nan")), Sample(round=1, position=0, duration_ns=1e3)]
    run.append([msgspec.structs.replace(cell, variant="eager", median_ns=float("nan"), samples=odd)])
    begin = time.monotonic()
    command = [sys.executable, "-m", "fuselab", "report", str(run.path), "--out", str(made.page)]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made.seconds, made.peak_bytes = time.monotonic() - begin, int(done.stdout) * 1024
    yield made
    shutil.rmtree(root)


def test_fault_27_a_page_of_500_mb_and_10000_kernels_takes_seconds_and_little_memory(huge: Huge) -> None:
    sizes = [path.stat().st_size for path in huge.run.path.rglob("*") if path.is_file()]
    assert sum(sizes) - (1 << 30) > 500e6
    assert huge.seconds < 60
    assert huge.peak_bytes < 700 << 20
    assert huge.page.stat().st_size < 64 << 20
    assert [m.median_ns for m in huge.run.measurements()] == [None, None]


def test_fault_27_500_mb_and_10000_kernels_open_and_what_is_left_out_is_named(
    drive: Callable[..., Driven], huge: Huge
) -> None:
    driven = drive()
    driven.goto(huge.page, kernel_anchor(0, kernel_id(0)))
    pane = driven.page.locator('.fp-pane[data-stage="ptx"]')
    pane.locator(".fp-row").first.wait_for()
    assert f"cut: the first 2 of 1024 MiB; the whole is in {huge.file(0)}" in pane.inner_text()
    driven.goto(huge.page, kernel_anchor(0, kernel_id(1)))
    driven.until(f"document.querySelector('.fp-title').textContent === '{kernel_name(1)}'")
    assert "NaN" not in driven.page.locator("main").inner_text()
    driven.goto(huge.page, kernel_anchor(0, kernel_id(9_999)))
    driven.until(f"document.querySelector('.fp-title').textContent === '{kernel_name(9_999)}'")
    driven.open("ptx")
    said = driven.page.locator("main").inner_text()
    assert f"left out: this page holds 96 MiB of texts already; it is in {huge.file(9_999)}" in said
    driven.page.fill(".fp-filter", "mul_999")
    driven.until("document.querySelectorAll('.fp-kernels a').length === 11")  # 999 and 9990 to 9999
    assert driven.said == []
