"""Resource figures of a cubin."""

from __future__ import annotations

import pytest

from fuselab.capture.machine_code import ResourceUsage, disassemble, parse_resource_usage, resource_usage

PRINTED = """
Resource usage:
 Common:
  GLOBAL:0
 Function add_kernel:
  REG:24 STACK:8 SHARED:1024 LOCAL:16 CONSTANT[0]:568 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function other:
  REG:255 STACK:0 SHARED:0 LOCAL:0
"""


def test_figures_are_read_per_function():
    assert parse_resource_usage(PRINTED) == {
        "add_kernel": ResourceUsage(24, 8, 1024, 16),
        "other": ResourceUsage(255, 0, 0, 0),
    }
    assert parse_resource_usage("") == {}


@pytest.mark.parametrize("tool", [disassemble, resource_usage])
def test_a_tool_that_is_missing_or_fails_says_so(tool, tmp_path):
    cubin = tmp_path / "broken.cubin"
    cubin.write_bytes(b"no cubin")
    with pytest.raises(RuntimeError, match="absent-tool did not run"):
        tool(cubin, tmp_path / "absent-tool")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no good >&2\nexit 3\n")
    failing.chmod(0o755)
    with pytest.raises(RuntimeError, match="failing exited with 3: no good"):
        tool(cubin, failing)
