"""The page of a comparison in a browser: quiet, closed to injections, reachable, readable at any width."""

from __future__ import annotations

import shutil
from html import unescape
from pathlib import Path

import pytest
from comparison_shown import comparison, kernel

from fuselab.comparison.records import Judgement
from fuselab.page import comparison as page_module
from fuselab.page.comparison import comparison_page

AXE = Path(__file__).parents[1] / "page" / "axe" / "axe.min.js"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
PAYLOADS = (
    "<script>window.hit=1</script>",
    "</style><img src=x onerror=window.hit=1>",
    "</pre></details><svg onload=window.hit=1>",
    '"><iframe srcdoc="<script>parent.hit=1</script>">',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.hit=1",
)


def test_the_page_says_what_was_found_without_a_script():
    page = comparison_page(comparison())
    assert "2 regressions past 2%" in page or "1 regression past 2%" in page
    for words in ("not measured together", "registers", "yardstick", "+b", Judgement.BROKEN.value, "64x256 f32"):
        assert words in page
    assert "<script" not in page
    assert "script-src 'none'" in unescape(page)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_words_from_elsewhere_are_text(payload):
    plain, page = comparison_page(comparison()), comparison_page(comparison(payload))
    for opening in ("<script", "<img", "<iframe", "<svg onload", "<style"):
        assert page.count(opening) == plain.count(opening)
    if "{{" in payload:
        assert page.count("{{ 7 * 7 }}") > 5, "shown as it is, not calculated"


def test_what_would_be_obeyed_or_reordered_is_shown():
    page = comparison_page(comparison("\u202e\x1b[2J"))
    assert "\u202e" not in page
    assert "\\u202e" in page


def test_diffs_end_where_the_page_would_be_too_large(monkeypatch):
    monkeypatch.setattr(page_module, "DIFF_CHARACTERS", 1000)
    page = comparison_page(comparison(kernels=[kernel(diff="@@ -1 +1 @@\n" + "+line\n" * 100) for _ in range(9)]))
    assert page.count("the diff is not shown") == 8
    assert len(page) < 100_000


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_in_a_browser_it_asks_for_nothing_runs_nothing_and_fits(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    plain, hostile = tmp_path / "plain.html", tmp_path / "hostile.html"
    plain.write_text(comparison_page(comparison()))
    hostile.write_text(comparison_page(comparison("".join(PAYLOADS))))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for path, width, scheme in ((plain, 1280, "light"), (plain, 390, "dark"), (hostile, 1280, "dark")):
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=path == plain
            )
            page.set_default_timeout(60_000)
            requests, said = [], []
            page.on("request", lambda request, into=requests: into.append(request.url))
            page.on("console", lambda message, into=said: into.append(message.text))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("window.hit") is None
            page.keyboard.press("Tab")
            summary = page.locator("details.cell > summary").nth(1)
            summary.focus()
            page.keyboard.press("Enter")
            assert page.locator("details.cell[open] svg.samples circle").count() == 60
            page.locator("details.kernel > summary").first.click()
            assert "+b" in page.locator("details.kernel pre").first.inner_text()
            assert requests == [path.as_uri()]
            assert said == []
            if path == plain and AXE.is_file():
                page.add_script_tag(content=AXE.read_text())
                found = page.evaluate(
                    "axe.run(document, {resultTypes: ['violations']})"
                    ".then(r => r.violations.map(v => [v.id, v.impact, v.nodes.slice(0, 3).map(n => n.html)]))"
                )
                assert [one for one in found if one[1] in ("serious", "critical")] == []
            page.close()
        browser.close()
