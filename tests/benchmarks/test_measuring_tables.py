"""The tables of docs/measuring.md are those of the results that are committed."""

from __future__ import annotations

import json

import measuring_tables as tables
import pytest


def test_the_page_has_what_was_measured():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page, tables.ROOT / "benchmarks" / "results") == page, "run benchmarks/measuring_tables.py"


def test_results_fill_the_page(tmp_path):
    stamp = {"environment": {"device": "NVIDIA Test", "versions": {"torch": "2.11.0"}, "driver": "1.2"}, "seconds": 7.4}
    bar = {"name": "a bar", "target": "at most 5%", "value": 0.0712, "passed": False, "detail": "of 400 pairs"}
    row = {
        "engine": "fuselab", "clock": "a clock", "rule": "verdict", "called": {}, "half_range": 0.004, "seconds": 0.5,
        "failure": "",
    }  # fmt: skip
    (tmp_path / "h200-calibration.json").write_text(json.dumps(stamp | {"bars": [bar]}))
    (tmp_path / "h200-engines.json").write_text(json.dumps(stamp | {"rows": [row], "best": ["most repeatable: x"]}))
    page = "\n".join(f"<!-- {name} -->\nold\n<!-- end of {name} -->" for name in tables.RESULTS)
    found = tables.filled(page, tmp_path)
    assert "| a bar | at most 5% | 0.0712 | **fails** | of 400 pairs |" in found
    assert "| fuselab | a clock | verdict |" in found
    assert found.count("NVIDIA Test, torch 2.11.0, driver 1.2; 7 s.") == 2
    assert "old" not in found
    assert tables.filled(found, tmp_path) == found
    with pytest.raises(SystemExit, match="0 places for engines"):
        tables.filled("<!-- calibration --><!-- end of calibration -->", tmp_path)
