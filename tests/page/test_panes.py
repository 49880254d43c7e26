"""The panes' documents, without a browser: what is in them, what is absent, cut, redacted or unreadable."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from panes_run import CAME, LINES, PLACE, SOURCE, USER, artifact, kernel_id, made_run

from fuselab.page.panes import Limits, Panes, kernel_anchor, line_anchor, panes
from fuselab.page.panes_source import SourceFile, interruption, place_of, user_files
from fuselab.records import RunMetadata, RunStatus, Stage
from fuselab.store import Run

PAYLOAD = '</script><img src=x onerror="window.hit=1">{{7*7}}<!--'


def same(text: str) -> str:
    return text


def document(made: Panes, name: str) -> Any:
    return json.loads(gzip.decompress(made.data[name]))


def opened(made: Panes, number: int = 0) -> tuple[Any, Any, Any]:
    """The index' entry of a kernel, its document, its graph's."""
    entry = document(made, "panes-index")["kernels"][number]
    return entry, document(made, entry["doc"]), document(made, entry["graph"])


def test_documents_hold_what_the_run_recorded(tmp_path: Path) -> None:
    made = panes([made_run(tmp_path)], redact=same)
    entry, kernel, graph = opened(made)
    assert entry["id"] == kernel_id()
    assert entry["registers"] == 21
    assert kernel["stages"]["triton"]["text"] == SOURCE
    assert kernel["came"] == {stage: {str(k): v for k, v in table.items()} for stage, table in CAME.items()}
    assert [line["became"] for line in kernel["lines"]] == [line.became for line in LINES]
    assert kernel["stages"]["sass"] == {"absent": "no nvdisasm"}
    assert graph["stages"]["inference_graph"] == {"absent": "compiled for training"}
    assert [line for line in kernel["card"] if "predicted memory on H200" in line]
    assert graph["user"][0]["file"] == USER
    assert graph["user"][0]["lines"] == [[10, "y = x * x"], [11, "return y + 1"], [12, ""]]
    assert graph["breaks"] == [{"kind": "graph break", "file": USER, "line": 12, "reason": "print"}]


def test_the_html_holds_no_text_that_is_not_escaped(tmp_path: Path) -> None:
    made = panes([made_run(tmp_path, payload=PAYLOAD)], redact=same)
    assert "<img" not in made.html
    assert "onerror" in made.html  # it is there, as text
    assert not re.search(r"<[^>]+\s(?:on\w+|style)=", made.html)
    assert "innerHTML" not in made.script
    assert "</script" not in made.script
    assert "eval(" not in made.script


def test_every_text_goes_through_redact(tmp_path: Path) -> None:
    made = panes([made_run(tmp_path)], redact=lambda text: text.replace("/home/ada", "~").replace(str(tmp_path), "…"))
    whole = made.html + "".join(gzip.decompress(data).decode() for data in made.data.values())
    assert "/home/ada" not in whole
    assert str(tmp_path) not in whole
    _, kernel, graph = opened(made)
    assert graph["user"][0]["file"] == "~/model.py"
    assert kernel["lines"][1]["user"] == ["~/model.py:10"]


def test_a_long_text_is_cut_at_a_line_with_a_note_and_the_path(tmp_path: Path) -> None:
    run = made_run(tmp_path, filler=300_000)
    made = panes([run], redact=same, limits=Limits(text_bytes=100_000))
    _, kernel, _ = opened(made)
    ptx = kernel["stages"]["ptx"]
    assert len(ptx["text"]) <= 100_000
    assert ptx["text"].endswith("\n")
    assert ptx["note"].startswith("cut: the first 0.0954 of 0.28")
    assert ptx["note"].endswith(f"kernels/{PLACE}/triton_poi_fused_add_mul_0/ptx")
    assert "note" not in kernel["stages"]["triton"]


def test_beyond_the_limit_of_the_page_a_text_is_its_path(tmp_path: Path) -> None:
    made = panes([made_run(tmp_path, kernels=3, filler=50_000)], redact=same, limits=Limits(all_bytes=200_000))
    _, kernel, _ = opened(made, 2)
    assert kernel["stages"]["ptx"]["absent"].startswith("left out: this page holds")
    assert kernel["stages"]["ptx"]["absent"].endswith("/ptx")
    index = document(panes([made_run(tmp_path, kernels=5)], redact=same, limits=Limits(kernels=2)), "panes-index")
    assert (len(index["kernels"]), index["left_out"]) == (2, 3)


@pytest.mark.parametrize(
    ("harm", "where", "said"),
    [
        ("remove", f"kernels/{PLACE}/triton_poi_fused_add_mul_0/ptx", "cannot be shown: cannot"),
        ("binary", f"kernels/{PLACE}/triton_poi_fused_add_mul_0/ptx", "is not text"),
        ("remove", f"graphs/{PLACE}/chain.json", "chain.json cannot be read"),
        ("text", f"graphs/{PLACE}/chain.json", "chain.json cannot be read"),
        ("text", f"kernels/{PLACE}/triton_poi_fused_add_mul_0/card.json", "card: absent"),
        ("nan", f"kernels/{PLACE}/triton_poi_fused_add_mul_0/card.json", "occupancy"),
        ("list", f"kernels/{PLACE}/triton_poi_fused_add_mul_0/card.json", "is not a card"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, harm: str, where: str, said: str) -> None:
    run = made_run(tmp_path)
    file = run.path / where
    if harm == "remove":
        file.unlink()
    else:
        nan = '{"occupancy": {"share": NaN, "programs_per_multiprocessor": Infinity}}'
        file.write_bytes({"binary": b"\0\1", "text": b"{", "nan": nan.encode(), "list": b"[]"}[harm])
    made = panes([run], redact=same)
    _, kernel, graph = opened(made)
    shown = json.dumps([kernel["stages"].get("ptx"), kernel["card"], graph["no_chain"]])
    assert said in shown
    assert "NaN" not in shown


def test_runs_without_captures_or_chains(tmp_path: Path) -> None:
    empty = panes([made_run(tmp_path, stages=False)], redact=same)
    assert "No kernel and no graph was captured" in empty.html
    assert document(empty, "panes-index")["breaks"][0]["kernel"] is None
    assert "No kernel" in panes([], redact=same).html
    _, kernel, graph = opened(panes([made_run(tmp_path, chained=False)], redact=same))
    assert "no chain" in graph["no_chain"]
    assert "lines" not in kernel


def test_a_graph_without_kernels_is_listed(tmp_path: Path) -> None:
    run = made_run(tmp_path, chained=False)
    with run.lock():
        run.update(kernels=[], artifacts=[artifact(Stage.POST_GRAD_GRAPH, f"graphs/{PLACE}/post_grad_graph.py")])
    entry = document(panes([run], redact=same), "panes-index")["kernels"][0]
    assert (entry["doc"], entry["backend"]) == ("", "graph")


def test_the_same_document_is_kept_once_and_bytes_are_the_same_again(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    once, twice = panes([run], redact=same), panes([run, Run(run.path)], redact=same)
    assert len(twice.data) == len(once.data)
    assert once.data == panes([run], redact=same).data


def test_interruptions_are_listed_once_a_run(tmp_path: Path) -> None:
    warnings = (
        "graph break at m.py:8: why: not",
        "recompile of f at m.py:3 (0/1): k == 2",
        "graph break at m.py:8: why: not",
    )
    made = panes([made_run(tmp_path, warnings=warnings)], redact=same)
    assert [(one["kind"], one["line"]) for one in document(made, "panes-index")["breaks"]] == [
        ("graph break", 8),
        ("recompile", 3),
    ]
    assert "1 graph break, 1 recompile" in made.html
    assert interruption("graph break at C:/m.py:8: x") is not None
    assert interruption("graph break at an unknown line: x").file == ""  # type: ignore[union-attr]
    assert interruption(f"graph break at m.py:{'9' * 5000}: x").line == 0  # type: ignore[union-attr]
    assert place_of("a:b") == ("a:b", 0)


def test_a_file_is_read_from_disk_only_where_it_is_the_runs_own(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    text = "import torch\n" * 9 + "y = x * x\nreturn y + 1\nprint(x)\n"
    file.write_text(text)
    run = made_run(tmp_path / "runs", target=file)
    _, _, graph = opened(panes([run], redact=same))
    assert graph["user"][0]["whole"]
    assert len(graph["user"][0]["lines"]) == 12
    file.write_text(text + "SECRET = 1\n")
    _, _, graph = opened(panes([run], redact=same))
    assert not graph["user"][0]["whole"]
    assert "SECRET" not in json.dumps(graph)


def test_files_of_our_own_are_whole_only_where_their_lines_agree() -> None:
    metadata = RunMetadata(id="", experiment="x", description="", status=RunStatus.COMPLETE, created_at="")
    place = "/elsewhere/src/fuselab/experiments/rms_norm.py"
    [whole] = user_files({f"{place}:1": ""}, [], metadata)
    assert whole.whole
    first = whole.lines[0][1]
    assert user_files({f"{place}:1": first}, [], metadata)[0].whole
    assert user_files({f"{place}:1": "other"}, [], metadata) == [SourceFile(file=place, lines=[(1, "other")])]
    assert not user_files({"/etc/passwd:1": "", "/x/fuselab/../../etc/passwd:1": ""}, [], metadata)[0].whole


def test_addresses_are_percent_encoded() -> None:
    assert kernel_anchor(2, "a/b c%#é") == "#kernel/2/a%2Fb%20c%25%23%C3%A9"
    assert line_anchor(0, "k\ud800", "ptx", 3) == "#line/0/k%3F/ptx/3"
