"""The page in a browser: drawn, quiet, reachable without a mouse, readable in light and dark, closed to injections."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from page_runs import full_run

from fuselab.page.build import build, write
from fuselab.page.notebook import mimebundle

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine"),
]

AXE = Path(__file__).with_name("axe") / "axe.min.js"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that a container's root has not; what is opened here is ours.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    runs = [full_run(root / "runs", experiment=name) for name in ("add_silu", "other")]
    return write(root / "report.html", runs)


@dataclass
class Opened:
    """A page that was opened, and what it did that it should not."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def opened(browser: Any, path: Path, *, width: int = 1280, **context: Any) -> Opened:
    """Open a file in a context of its own."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    page.set_default_timeout(WAIT_MS)
    found = Opened(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("dialog", lambda dialog: (found.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.goto(path.as_uri())
    return found


def until(frame: Any, expression: str) -> None:
    """Wait until an expression is true; playwright's own waiting needs the ``eval`` that the policy refuses."""
    end = time.monotonic() + WAIT_MS / 1000
    while not frame.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_drawn_quiet_and_as_wide_as_the_screen(browser: Any, report: Path, scheme: str, width: int) -> None:
    here = opened(browser, report, width=width, color_scheme=scheme)
    page = here.page
    for name in ("Speedup", "Roofline", "Time and share", "Memory traffic"):
        chart = page.locator(f'svg.chart[aria-label^="{name}"]:visible').first
        box = chart.bounding_box()
        assert box is not None, name
        assert box["width"] > 0.85 * min(width - 80, 1120), name
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width, name
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.check("#direction-backward", force=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll('svg.chart text')].filter(t => t.getClientRects().length)
           .map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"""
    )
    assert smallest >= 11
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert here.requests == [report.as_uri()]
    assert here.errors == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_people_from_reading_it(browser: Any, report: Path, scheme: str, width: int) -> None:
    here = opened(browser, report, width=width, color_scheme=scheme)
    page = here.page
    page.evaluate(
        "for (const one of document.querySelectorAll('main > section:not(#way-down) details')) one.open = true"
    )
    page.evaluate(AXE.read_text(encoding="utf-8"))
    # The panes' own tests look at the panes.
    found = page.evaluate(
        """axe.run({ include: [['body']], exclude: [['#way-down']] }, { resultTypes: ['violations'] })
           .then(r => r.violations.map(v => [v.id, v.impact, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]))"""
    )
    assert [one for one in found if one[1] in ("serious", "critical")] == []
    page.context.close()


def test_the_direction_switch_works_by_keyboard_and_without_scripts(browser: Any, report: Path) -> None:
    for scripts in (True, False):
        page = opened(browser, report, java_script_enabled=scripts).page
        forward = page.locator('svg.chart[aria-label^="Speedup"][aria-label*="forward"]:visible')
        backward = page.locator('svg.chart[aria-label^="Speedup"][aria-label*="backward"]:visible')
        assert (forward.count(), backward.count()) == (1, 0)
        page.focus("#direction-forward")
        page.keyboard.press("ArrowRight")
        assert (forward.count(), backward.count()) == (0, 1)
        page.context.close()


def test_marks_say_what_they_are_on_hover_and_by_keyboard(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    mark = page.locator("#speedup a.tip:visible").first
    tip = page.locator("#tip")
    assert tip.is_hidden()
    mark.hover()
    assert "add_silu 64x256 f32 form=add" in tip.inner_text()
    assert "compile, forward: 1.82\u00d7 [1.76, 1.85] faster" in tip.inner_text()
    box = tip.bounding_box()
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 1280
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    mark.focus()
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    assert page.locator("#speedup svg title").count() == 0  # else the browser's own would come on top
    page.context.close()


def test_a_mark_leads_to_its_kernel_and_the_link_survives_a_reload(browser: Any, report: Path) -> None:
    here = opened(browser, report)
    page = here.page
    page.locator("#roofline a.tip:visible").nth(1).focus()
    page.keyboard.press("Enter")
    until(page, "location.hash.startsWith('#kernel/')")
    name = "triton_poi_fused_add_silu_0"
    page.locator("#way-down", has_text=name).wait_for()
    until(page, "document.getElementById('way-down').getBoundingClientRect().top < innerHeight")
    page.reload()
    page.locator("#way-down", has_text=name).wait_for()
    assert here.errors == []
    page.context.close()


def test_a_link_to_what_is_folded_or_of_the_other_direction_shows_it(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    anchor = page.evaluate("document.querySelector('details.samples.backward').id")
    assert page.locator(f"#{anchor}").is_hidden()
    page.evaluate("id => { location.hash = id }", anchor)
    page.locator(f"#{anchor} svg.chart:visible").wait_for()
    assert page.is_checked("#direction-backward")
    page.context.close()


def test_the_colours_can_be_chosen(browser: Any, report: Path) -> None:
    page = opened(browser, report, color_scheme="light").page
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = [page.evaluate(ground)]
    for _ in range(3):
        page.click("#theme")
        seen.append(page.evaluate(ground))
    assert seen[0] == seen[1] == seen[3] == "rgb(255, 255, 255)"  # as the system, light, (dark), as the system
    assert seen[2] != seen[0]
    page.click("#theme")
    page.click("#theme")
    page.reload()
    assert page.evaluate(ground) == seen[2]
    page.context.close()


def test_nothing_moves_while_it_opens(browser: Any, report: Path) -> None:
    page = opened(browser, report).page
    shift = page.evaluate(
        """new Promise(done => {
             let sum = 0;
             new PerformanceObserver(list => { for (const one of list.getEntries()) sum += one.value; })
               .observe({ type: 'layout-shift', buffered: true });
             setTimeout(() => done(sum), 500);
           })"""
    )
    assert shift < 0.02
    page.context.close()


PAYLOADS = [
    "</script><img src=x onerror=window.hit=1>",
    "</style><script>window.hit=1</script>",
    "</title><svg onload=window.hit=1>",
    '"><script>window.hit=1</script>',
    "'><img src=x onerror=window.hit=1>",
    '" onmouseover="window.hit=1" x="',
    "' onfocus='window.hit=1' autofocus='",
    "<svg/onload=window.hit=1>",
    "<svg><script>window.hit=1</script></svg>",
    "<svg><animate onbegin=window.hit=1 attributeName=x dur=1s>",
    "<math><mtext></mtext><script>window.hit=1</script></math>",
    "<iframe srcdoc='<script>parent.hit=1</script>'>",
    "<iframe src=javascript:parent.hit=1>",
    "<object data=javascript:window.hit=1>",
    "<embed src=javascript:window.hit=1>",
    "<body onload=window.hit=1>",
    "<details open ontoggle=window.hit=1>",
    "<video><source onerror=window.hit=1>",
    "<audio src=x onerror=window.hit=1>",
    "<input autofocus onfocus=window.hit=1>",
    "<select autofocus onfocus=window.hit=1>",
    "<marquee onstart=window.hit=1>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<base href=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<form action=http://127.0.0.1:9/><button autofocus>x</button></form>",
    "<img src=http://127.0.0.1:9/x.png>",
    "<image href=http://127.0.0.1:9/x.png>",
    "<use href=http://127.0.0.1:9/x.svg#a>",
    "<style>@import 'http://127.0.0.1:9/x.css';</style>",
    "<style>body{background:url(http://127.0.0.1:9/x)}</style>",
    "<a href=javascript:window.hit=1 id=verdict>x</a>",
    "javascript:window.hit=1",
    "{{ 7 * 191 }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "${window.hit=1}",
    "`;window.hit=1;//",
    "';window.hit=1;//",
    '";window.hit=1;//',
    '\\";window.hit=1;//',
    "-->\n<script>window.hit=1</script>",
    "<!--<script>window.hit=1</script>-->",
    "]]><script>window.hit=1</script>",
    "<![CDATA[<script>window.hit=1</script>]]>",
    "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "&#60;script&#62;window.hit=1&#60;/script&#62;",
    "\u202e</script><script>window.hit=1</script>",
    "\x1b]8;;http://127.0.0.1:9\x07<img src=x onerror=window.hit=1>",
    "<template shadowrootmode=open><script>window.hit=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.hit=1>'>",
    "\u2028</script\u2029><scr\0ipt>window.hit=1</scr\0ipt>",
]


def test_fifty_injections_in_every_field_run_nothing(browser: Any, tmp_path: Path) -> None:
    assert len(PAYLOADS) >= 50
    turn = itertools.cycle(PAYLOADS)
    # Each field gets the next ones: over three runs every kind of field has had most of them.
    runs = [
        full_run(
            tmp_path / "runs",
            text=lambda word: f"{word} {next(turn)} {next(turn)}",
            experiment=f"e{number}",
            variant=f"compile{PAYLOADS[number]}",
        )
        for number in range(3)
    ]
    path = tmp_path / "report.html"
    path.write_text(build(runs), encoding="utf-8")
    here = opened(browser, path)
    page = here.page
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for mark in page.locator("#speedup a.tip:visible").all()[:6]:
        mark.hover()
    page.locator("#table a").first.click()
    until(page, "location.hash.startsWith('#kernel/')")
    page.wait_for_timeout(500)
    assert page.evaluate("window.hit") is None
    foreign = (
        "[...document.querySelectorAll('img, iframe, object, embed, base, form, image, use')].map(e => e.outerHTML)"
    )
    assert [one for one in page.evaluate(foreign) if not one.startswith('<form class="fp-')] == []
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert page.evaluate(handlers) == []
    assert page.evaluate("document.scripts.length") == page.evaluate(
        "document.querySelectorAll('body > script').length"
    )
    assert set(here.requests) == {path.as_uri()}
    assert here.errors == []
    shown = page.locator("body").inner_text()
    assert "</script><img src=x onerror=window.hit=1>" in shown
    assert "{{ 7 * 191 }}" in shown
    assert "1337" not in shown
    page.context.close()


def test_in_a_notebook_the_frame_works_and_links_stay_in_it(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><body>{mimebundle([full_run(tmp_path / 'runs')])['text/html']}", encoding="utf-8")
    here = opened(browser, path, width=1000)
    page = here.page
    picture = page.locator("body > div > img")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    frame = page.frame_locator("iframe")
    frame.locator('svg.chart[aria-label^="Speedup"]:visible').wait_for()
    frame.locator("#speedup a.tip:visible").first.focus()
    page.keyboard.press("Enter")
    inside = page.frames[1]
    until(inside, "location.hash.startsWith('#kernel/')")
    assert page.url == path.as_uri()
    assert here.errors == []
    page.context.close()
