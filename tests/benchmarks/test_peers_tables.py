"""The tables of the operators are those of the recording that is committed."""

from __future__ import annotations

import json

import peers_tables as tables
import pytest


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_pages_have_what_was_measured(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text, tables.RESULT) == text, "run benchmarks/peers_tables.py"


def test_the_page_of_the_operators_has_a_place_for_its_tables():
    text = tables.PAGES[1].read_text(encoding="utf-8")
    for name in ("operators overview", "operators verdicts", "operators figures"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end of {name} -->") == 1


def cell(shape, direction, eager, share):
    variants = {"eager": {"us": 2.0, "ratio": eager}, "ours": {"us": 1.0, "share": share}}
    ceiling = {"bytes_per_s": 4e12, "us": 1.0}
    return {
        "operator": "rms_norm", "shape": shape, "direction": direction, "variants": variants, "bytes": 4_000_000,
        "ceiling": ceiling,
    }  # fmt: skip


def test_a_recording_fills_a_page(tmp_path):
    result = tmp_path / "h200-peers.json"
    cells = [cell([16384, 4096], "forward", 1.25, 0.99), cell([131072, 256], "forward", 2.5, 0.97)]
    environment = {"device": "NVIDIA Test", "versions": {"torch": "2.11.0"}, "driver": "1.2"}
    result.write_text(json.dumps({"environment": environment, "cells": cells, "settings": [], "failures": []}))
    page = "\n".join(f"<!-- {name} -->\nold\n<!-- end of {name} -->" for name in tables.TABLES)
    found = tables.filled(page, result)
    assert "| RMSNorm | forward | 1.25x to 2.50x | 1.25x to 2.50x | 0.97 to 0.99 |" in found
    assert "| RMSNorm | 1.1 to 1.8x | 1.25x to 2.50x | - |" in found
    assert (
        "| `rms_norm` | forward | share of the ceiling >= 0.97 | width 256 to 32768 | 0.97 at 131072x256 | 2 of 6 "
        in found
    )
    assert "| 16384x4096 | 1.0 | 2.0 | 1.0 | 0.99 | 1.25 |" in found
    assert "old" not in found
    assert tables.filled(found, result) == found
    assert tables.filled("no place", result) == "no place"
    assert tables.NONE in tables.filled(page, tmp_path / "missing.json")
