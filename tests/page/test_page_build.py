"""The page without a browser: what it says of whole and of broken runs, its policy, redaction, sizes."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from page_runs import LARGE, SMALL, cell, empty_run, full_run

from fuselab.cli import main
from fuselab.errors import StoreError
from fuselab.page.build import build, write
from fuselab.page.model import load, together
from fuselab.page.notebook import mimebundle
from fuselab.page.security import source_hash
from fuselab.records import Direction, RunStatus, Status, Verdict
from fuselab.startup.journal import Journal, Line
from fuselab.startup.records import (
    Calls,
    CompileCost,
    Configuration,
    Interval,
    Phase,
    PhaseTime,
    Start,
    StartRecord,
)
from fuselab.store import Run


class Page(HTMLParser):
    """What the tests ask of a document: its texts, elements and inline scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.documents: dict[str, str] = {}
        self.words: list[str] = []
        self._inside: tuple[str, dict[str, str]] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        self._inside = (tag, attributes) if tag in ("script", "style") else None
        if tag in self.inline and "type" not in attributes:
            self.inline[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.words.append(data)
        elif "type" in self._inside[1]:
            self.documents[self._inside[1]["id"]] = data
        else:
            self.inline[self._inside[0]][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def policy(self) -> str:
        return next(a["content"] for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")


def with_cells(root: Path, change: Callable[[list], list]) -> Run:
    """A run whose measurements are those of a full one, changed."""
    whole = full_run(root)
    cells = change(whole.measurements())
    (whole.path / "measurements.jsonl").write_bytes(b"")
    whole.append(cells)
    return whole


def test_a_whole_run_is_told_in_a_sentence_and_drawn(tmp_path: Path) -> None:
    page = Page(build([full_run(tmp_path)]))
    assert "On NVIDIA H200, compile is faster than eager in 4 of 4 comparisons (1.82\u00d7)" in page.text
    assert "triton is slower in 4 of 4 (0.91\u00d7)" in page.text
    assert "compile: yes" in page.text
    assert "4 copies of a baseline within 0.1% of it; 4 controls of exactly 2% more found as 2.0%" in page.text
    labels = [a["aria-label"] for tag, a in page.elements if tag == "svg" and "aria-label" in a]
    for start in ("Speedup", "Roofline", "Time and share", "Samples", "Memory traffic", "Time of the first call"):
        assert sum(label.startswith(start) for label in labels) >= 2, (start, labels)  # a wide and a narrow one
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_link_of_a_chart_leads_somewhere(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    page = Page(build([run]))
    ids = {a["id"] for _, a in page.elements if "id" in a}
    links = {a["href"] for tag, a in page.elements if tag == "a" and a.get("class") == "tip"}
    assert links
    kernels = {load(run).kernel_href(k) for k in run.metadata().kernels}
    assert kernels <= links
    assert all(link in kernels or link[1:] in ids for link in links), links - kernels


def test_traffic_is_what_the_graphs_say(tmp_path: Path) -> None:
    text = Page(build([full_run(tmp_path)])).text
    # 4 MiB a tensor: x, y, total written and read, silu written; fused without the two of total.
    assert "Fusion saves 8.00 MiB of 20.0 MiB, 40%; 8.00 MiB of it written only to be read back." in text
    assert "Counted in the kernels' code: 12.0 MiB." in text


def test_withheld_and_wrong_cells_show_no_speedup(tmp_path: Path) -> None:
    def spoil(cells: list) -> list:
        found = []
        for one in cells:
            if one.variant == "compile":
                one = msgspec.structs.replace(one, warnings=["above the measured ceiling: 140%"])  # noqa: PLW2901
            found.append(one)
        return found

    page = Page(build([with_cells(tmp_path, spoil)]))
    assert "1.82" not in page.text
    assert "withheld" in page.text
    assert "above the measured ceiling: 140%" in page.text


def test_a_cpus_figures_say_so(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    environment = msgspec.structs.replace(run.environment(), device="CPU AMD EPYC, 2 cores", device_type="cpu")
    (run.path / "environment.json").write_bytes(msgspec.json.encode(environment))
    html = build([run])
    text = Page(html).text
    assert "On this CPU" in text
    assert "CPU figures: they say nothing about a GPU" in text
    assert "CPU figure" in html
    assert "described, not measured" not in html  # no rates are described of this device


def test_predictions_say_that_they_are(tmp_path: Path) -> None:
    page = Page(build([full_run(tmp_path)]))
    assert "prediction After how many calls" in page.text
    # 2 s over twice 45 us that a call saves: 22,222 calls, told with two digits.
    assert "pays after 22,000 calls" in page.text
    assert "described, not measured" in page.text


def test_measured_starts_are_drawn_where_they_are_of_the_same_thing(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    second = 1_000_000_000

    def start(kind: Start, seconds: int, steady_ns: float) -> StartRecord:
        phase = PhaseTime(phase=Phase.IMPORT, duration_ns=seconds * second)
        return StartRecord(
            start=kind,
            configuration=None if kind is Start.EAGER else Configuration(),
            round=0,
            first_result_ns=seconds * second,
            first_call_ns=second,
            phases=[phase],
            intervals=[Interval(phase=Phase.IMPORT, begin_ns=0, end_ns=seconds * second)],
            early_ns=[int(steady_ns)],
            steady_ns=steady_ns,
            steady_samples_ns=[steady_ns] * 5,
        )

    def journal(experiment: str, torch: str) -> None:
        environment = msgspec.structs.replace(run.environment(), versions={"torch": torch})
        cost = CompileCost(
            experiment=experiment, workload=SMALL, calls=Calls.INFERENCE, environment=environment, seed=0, repeats=1
        )
        written = Journal.create(tmp_path, cost)
        written.append(Line(start=start(Start.EAGER, 2, 2e6)), Line(start=start(Start.COLD, 12, 1e6)))

    journal("add_silu", "2.9.0")
    journal("add_silu-other", "2.11.0")
    assert "measured by phase" not in Page(build([run])).text
    journal("add_silu", "2.11.0")
    page = Page(build([run]))
    assert page.text.count("measured by phase") == 1
    assert "Time to the first result: add_silu" in page.text
    assert "Total time against calls: add_silu" in page.text
    assert len(page.inline["style"]) == 2  # the pictures' own would be refused by the policy


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (RunStatus.COMPLETE, "Nothing was compared: the run holds no measurements."),
        (RunStatus.FAILED, "Nothing was compared: the run failed before its first measurement."),
        (RunStatus.INTERRUPTED, "Nothing was compared: the run has no measurement yet."),
    ],
)
def test_runs_without_measurements(tmp_path: Path, status: RunStatus, said: str) -> None:
    page = Page(build([empty_run(tmp_path, status)]))
    assert said in page.text
    assert "0 of 4 cells" in page.text
    if status is RunStatus.FAILED:
        assert "StoreError: the disk is full" in page.text


def test_a_described_device_was_not_measured(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    described = msgspec.structs.replace(run.environment(), device_type="described")
    (run.path / "environment.json").write_bytes(msgspec.json.encode(described))
    page = Page(build([run]))
    assert "Nothing was compared: the device is described, nothing was measured." in page.text
    assert "Described device: what would run there, nothing was measured" in page.text


def test_one_sample_has_no_spread(tmp_path: Path) -> None:
    def one_sample(cells: list) -> list:
        return [msgspec.structs.replace(c, samples=c.samples[:1], low_ns=None, high_ns=None) for c in cells]

    page = Page(build([with_cells(tmp_path, one_sample)]))
    assert "1.82\u00d7" in page.text
    one = Page(build([with_cells(tmp_path, lambda cells: one_sample(cells)[:1])]))
    assert "One sample: no spread to see." in one.text


def test_what_is_no_number_is_drawn_nowhere(tmp_path: Path) -> None:
    """The store writes none; a file that was written to otherwise may have them."""
    run = full_run(tmp_path)
    path = run.path / "measurements.jsonl"
    text = path.read_text(encoding="utf-8")
    for field in ("median_ns", "speedup", "share", "bytes_per_s", "duration_ns", "high"):
        text = re.sub(rf'"{field}":[0-9.e+-]+', f'"{field}":1e308', text)
    path.write_text(text, encoding="utf-8")
    html = build([run])
    assert not re.search(r'="[^"]*\b(?:nan|inf|infinity)\b', html, re.I)
    path.write_text(re.sub(r'"(median_ns|speedup|share|duration_ns)":[0-9.e+-]+', r'"\1":-1', text), encoding="utf-8")
    assert "</html>" in build([run])
    path.write_text(re.sub(r'"(median_ns|speedup|share|duration_ns)":[0-9.e+-]+', r'"\1":0', text), encoding="utf-8")
    assert "</html>" in build([run])


@pytest.mark.parametrize("harm", ["missing", "cut", "garbage", "huge line", "not utf-8"])
def test_graphs_that_cannot_be_read_are_no_picture(tmp_path: Path, harm: str) -> None:
    run = full_run(tmp_path)
    for path in run.path.glob("graphs/**/*.py"):
        match harm:
            case "missing":
                path.unlink()
            case "cut":
                path.write_text(path.read_text()[:120])
            case "garbage":
                path.write_text("def forward(:\n" * 50)
            case "huge line":
                path.write_text("x = " + "(" * 100_000)
            case "not utf-8":
                path.write_bytes(b"\xff\xfe\x01" * 500)
    page = Page(build([run]))
    assert "No graphs were captured in this run" in page.text
    assert "compile is faster" in page.text


def test_damaged_lines_are_told_and_the_rest_stands(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    with (run.path / "measurements.jsonl").open("ab") as file:
        file.write(b'{"experiment": 3}\n')
    page = Page(build([run]))
    assert "compile is faster" in page.text
    assert "measurements.jsonl" in page.text


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 99}', b'{"schema_version": 0}', b"[]"])
def test_metadata_that_cannot_be_read_are_named(tmp_path: Path, content: bytes) -> None:
    run = full_run(tmp_path)
    (run.path / "metadata.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"metadata\.json"):
        build([run])


def test_cells_that_never_ran(tmp_path: Path) -> None:
    def gone(cells: list) -> list:
        nothing = {"samples": [], "median_ns": None, "comparison": None, "ceiling": None, "traffic": None}
        statuses = [*Status][1:]
        return [
            msgspec.structs.replace(c, status=statuses[n % len(statuses)], reason=f"reason {n}", **nothing)
            for n, c in enumerate(cells)
        ]

    page = Page(build([with_cells(tmp_path, gone)]))
    assert "Nothing was compared: no variant has a time beside its baseline's." in page.text
    for status in (Status.ERROR, Status.CRASHED, Status.TIMED_OUT, Status.OUT_OF_MEMORY):
        assert status.value.replace("_", " ") in page.text


def test_many_runs_workloads_and_kernels_stay_small(tmp_path: Path) -> None:
    runs = [full_run(tmp_path, experiment=f"experiment_{n}") for n in range(4)]
    assert len(build(runs).encode()) < 3_000_000
    many = empty_run(tmp_path, experiment="many")
    workloads = [msgspec.structs.replace(SMALL, shape=(n + 1, 256)) for n in range(300)]
    cells = [cell(v, w, d, t) for w in workloads for d in Direction for v, t in (("eager", 100.0), ("compile", 50.0))]
    many.append([msgspec.structs.replace(c, experiment="many", samples=c.samples[:2]) for c in cells])
    kernel = runs[0].metadata().kernels[0]
    kernels = [msgspec.structs.replace(kernel, kernel_id=f"{kernel.kernel_id}_{n}") for n in range(10_000)]
    many.update(kernels=kernels, plan=workloads)
    html = build([many])
    assert len(html.encode()) < 8_000_000
    assert "more: the table below has all of them" in html


def test_the_policy_lets_through_what_is_inline_and_nothing_else(tmp_path: Path) -> None:
    html = build([full_run(tmp_path)])
    page = Page(html)
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in page.policy
    assert len(page.inline["script"]) == 2
    assert len(page.inline["style"]) == 2
    for kind, directive in (("script", "script-src"), ("style", "style-src")):
        allowed = next(d for d in page.policy.split("; ") if d.startswith(directive))
        assert sorted(allowed.split()[1:]) == sorted(source_hash(text) for text in page.inline[kind])
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")]
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in "".join(page.inline["style"])
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|eval|importScripts)\b\s*\(",
                         "".join(page.inline["script"]))  # fmt: skip


SECRETS = ("/home/ada/secret-project", "ada", "gpu17.example.org", "/data/team/lovelace")


def test_redacted_pages_say_nothing_of_whose_machine_it_was(tmp_path: Path) -> None:
    host = socket.gethostname()
    planted = f"ada@gpu17.example.org:/home/ada/secret-project/model.py:3 on {host}, /data/team/lovelace/x.py"
    run = full_run(tmp_path / "home" / "ada", lambda word: f"{word} {planted}")
    plain, html = build([run]), build([run], redact=True)
    texts = [html, *map(inflated, Page(html).documents.values())]
    assert all(secret in plain for secret in SECRETS)
    texts[0] = re.sub(r"(?s)<(script|style)[^>]*>.*?</\1>", "", html)  # our own code, and what is inflated above
    for secret in (*SECRETS, str(tmp_path), host):
        for text in texts:
            assert not re.search(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", text), secret
    assert "model.py:3" in html
    assert "compile is faster" in Page(html).text


@pytest.mark.parametrize("name", ["forward", "complete", "triton", "ok"])
def test_a_host_may_be_called_as_a_word_of_ours(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = full_run(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert "compile is faster" in Page(build([run], redact=True)).text


def inflated(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def test_redacted_links_meet(tmp_path: Path) -> None:
    run = full_run(tmp_path, variant="ada_compile", text=lambda word: f"{word} /home/ada/x.py")
    page = Page(build([run], redact=True))
    links = {a["href"] for tag, a in page.elements if tag == "a" and a.get("href", "").startswith("#kernel/")}
    assert links
    index = json.loads(inflated(page.documents["data-panes-index"]))
    from fuselab.page.panes import kernel_anchor

    assert links <= {kernel_anchor(k["run"], k["id"]) for k in index["kernels"]}


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    path = write(tmp_path / "out.html", [run])
    before = path.read_bytes()
    (run.path / "metadata.json").write_text("{")
    with pytest.raises(StoreError):
        write(path, [run])
    assert path.read_bytes() == before


def test_the_runs_of_one_invocation_belong_together(tmp_path: Path) -> None:
    runs = [full_run(tmp_path, experiment=name) for name in ("one", "two")]
    other = empty_run(tmp_path, experiment="three")
    found = together(runs[1], tmp_path)
    assert [run.path for run in found] == [run.path for run in runs]
    assert [run.path for run in together(other, tmp_path)] == [other.path]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = full_run(tmp_path)
    assert main(["report", str(run.path)]) == 0
    assert (run.path / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    full_run(tmp_path, experiment="second")
    assert main(["report", "latest", "--runs", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(tmp_path / "report.html")
    assert len(told["runs"]) == 2
    assert main(["report", str(run.path), "--out", str(tmp_path / "elsewhere.html"), "--redact"]) == 0
    assert "redacted" in (tmp_path / "elsewhere.html").read_text(encoding="utf-8")
    assert main(["report", "nothing", "--runs", str(tmp_path)]) == 2


def test_a_notebook_gets_a_frame_and_a_picture(tmp_path: Path) -> None:
    bundle = mimebundle([full_run(tmp_path)])
    assert bundle["image/svg+xml"].startswith("<svg")
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    assert "data:image/svg+xml;base64," in bundle["text/html"]
    assert bundle["text/html"].count("<iframe") == 1
    assert "<script" not in bundle["text/html"]  # it is in the frame's attribute, escaped


def test_verdicts_count_only_what_is_resolved(tmp_path: Path) -> None:
    def unresolved(cells: list) -> list:
        return [
            msgspec.structs.replace(c, comparison=msgspec.structs.replace(c.comparison, verdict=Verdict.UNRESOLVED))
            if c.variant == "compile"
            else c
            for c in cells
        ]

    page = Page(build([with_cells(tmp_path, unresolved)]))
    assert "compile is neither faster nor slower than eager: none of 4 comparisons is resolved" in page.text
    assert "compile: not resolved" in page.text


def test_workloads_of_other_sizes_are_behind_the_one_that_saves_most(tmp_path: Path) -> None:
    html = build([full_run(tmp_path)])
    traffic = html[html.index('id="traffic"') : html.index('id="roofline"')]
    assert traffic.index(LARGE.label) < traffic.index(SMALL.label)
    assert "1 other workload" in traffic
