"""What the table beside the peers says follows from its cells; the cells here are made up."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import peers
import peers_operators
import peers_rules as rules
import pytest

from fuselab.records import Direction


def cell(operator="rms_norm", shape=(16384, 4096), direction="forward", ours=100.0, share=0.98, times=None, **more):
    times = {"eager": 150.0, "compile": 130.0, "quack": 120.0} if times is None else times
    variants = {name: {"us": us, "ratio": us / ours} for name, us in times.items()}
    variants["ours"] = {"us": ours, "low_us": ours, "high_us": ours, "share": share}
    ceiling = {"bytes_per_s": 4e12, "us": 67.0}
    return {
        "operator": operator, "shape": list(shape), "direction": direction, "variants": variants, "bytes": 268_000_000,
        "ceiling": ceiling, "seconds": 1.0, **more,
    }  # fmt: skip


def host(operator="silu", ours=6.0, **times):
    made = cell(operator, rules.HOST[0], "host", ours, None, {})
    made["variants"] |= {name: {"us": us} for name, us in times.items()}
    return made


def only(rule, *cells):
    (row,) = rules.rows(cells, [rule])
    return row


SHARE = rules.Rule("rms_norm", "forward", "share", 0.97)
RATIO = rules.Rule("rms_norm", "forward", "ratio", 1.2)
BEHIND = rules.Rule("rms_norm", "forward", "behind", rules.NEVER_BEHIND)


@pytest.mark.parametrize(
    ("rule", "changed", "passed"),
    [
        (SHARE, {"share": 0.97}, True),
        (SHARE, {"share": 0.9699}, False),
        (SHARE, {"share": None}, None),
        (RATIO, {}, True),  # the fastest, QuACK, at exactly 1.2
        (RATIO, {"ours": 101.0}, False),
        (RATIO, {"times": {}}, None),
        (BEHIND, {"ours": 121.0}, True),  # within the margin
        (BEHIND, {"ours": 121.3}, False),
        (rules.Rule("rms_norm", "forward", "behind", 1 / 1.02), {"ours": 122.3}, True),
        (rules.Rule("rms_norm", "forward", "behind", 1 / 1.02), {"ours": 122.5}, False),
        (rules.Rule("rms_norm", "forward", "ratio", 1.25, against=("compile",)), {}, True),
        (rules.Rule("rms_norm", "forward", "ratio", 1.25, against=("compile", "quack")), {}, False),
        (rules.Rule("rms_norm", "forward", "ratio", 1.05, against=("compile", "liger")), {}, None),
    ],
)
def test_one_cell(rule, changed, passed):
    made = cell(**changed)
    assert rules.outcome(rule, (16384, 4096), made).passed is passed


def test_a_floor_is_compared_with_nobody():
    made = cell()
    made["variants"]["quack"] = {"us": 50.0, "ratio": 0.5, "floor": "does less"}
    found = rules.outcome(RATIO, (16384, 4096), made)
    assert (found.peer, found.passed) == ("compile", True)


@pytest.mark.parametrize("entry", [{"wrong": "rms error 1"}, {"error": "RuntimeError: no"}])
def test_ours_that_is_wrong_fails_every_rule(entry):
    made = cell()
    made["variants"]["ours"] = entry
    for rule in (SHARE, RATIO, BEHIND):
        found = rules.outcome(rule, (16384, 4096), made)
        assert (found.passed, found.value) == (False, None)
        assert found.why == next(iter(entry.values()))
        assert found.why in rules.summary([made], [rule])


@pytest.mark.parametrize("more", [{"untrusted": "self-certification failed: x"}, None])
def test_what_is_not_to_be_trusted_is_no_pass(more):
    made = cell(**(more or {}))
    if more is None:
        made["variants"]["ours"]["above_ceiling"] = "above the measured ceiling: 1.2 times"
    assert rules.outcome(SHARE, (16384, 4096), made).passed is None


def test_a_peer_that_is_wrong_is_not_compared():
    made = cell()
    made["variants"]["quack"] = {"wrong": "largest error 3"}
    assert rules.outcome(RATIO, (16384, 4096), made).peer == "compile"
    assert "| wrong |" in rules.figures([made], "rms_norm", "forward")


def test_host_time():
    rule = rules.Rule("silu", "host", "host", 1 / 3, rules.HOST, ("liger",))
    assert only(rule, host(ours=10.0, liger=30.0)).verdict == rules.PASS
    assert only(rule, host(ours=10.1, liger=30.0)).verdict == rules.FAIL
    assert only(rule, host(ours=10.1, eager=30.0)).verdict == rules.MISSING
    assert only(rule).verdict == rules.MISSING


def test_a_row_passes_when_all_of_its_shapes_do():
    cells = [cell(shape=shape) for shape in rules.LARGE]
    assert only(SHARE, *cells).verdict == rules.PASS
    assert only(SHARE, *cells[:-1]).verdict == rules.PARTIAL
    cells[2]["variants"]["ours"]["share"] = 0.5
    row = only(SHARE, *cells[:-1])
    assert (row.verdict, row.worst.shape, row.worst.value) == (rules.FAIL, rules.LARGE[2], 0.5)
    assert row.counts == (4, 6)
    assert "| 0.5 at 4096x16384 | 4 of 6 | **fail** |" in rules.summary(cells[:-1], [SHARE])


def test_the_worst_of_host_times_is_the_largest():
    rule = rules.Rule("silu", "host", "host", 1.0, ((16, 4096), (64, 4096)), ("eager",))
    slower = host(ours=9.0, eager=10.0)
    slower["shape"] = [64, 4096]
    assert only(rule, host(ours=1.0, eager=10.0), slower).worst.value == 0.9


def test_every_demand_is_there():
    """The issue's table, by operator, direction and kind."""
    counted = {}
    for rule in rules.RULES:
        counted.setdefault((rule.operator, rule.direction), []).append((rule.kind, round(rule.bound, 3)))
    assert counted["layer_norm_gelu", "forward"] == [("share", 0.85), ("ratio", 1.6), ("behind", 0.99)]
    assert counted["layer_norm_gelu", "backward"] == [("share", 0.75), ("ratio", 2.2), ("behind", 0.99)]
    assert counted["rms_norm", "forward"] == [("share", 0.97), ("behind", 0.98), ("behind", 0.99)]
    assert counted["add_rms_norm", "backward"] == [("share", 0.88), ("share", 0.8), ("ratio", 1.05), ("behind", 0.99)]
    assert counted["silu", "host"] == [("host", 1.0)]
    assert counted["swiglu", "host"] == [("host", 1.0), ("host", 0.333)]
    assert {operator for operator, _ in counted} == set(peers_operators.OPERATORS)
    wide = [r for r in rules.RULES if r.operator == "softmax_dropout" and r.bound == 1.5]
    assert {width for _, width in wide[0].shapes} == {4096, 8192, 16384, 32768}
    split = [
        r.shapes for r in rules.RULES if r.operator == "rms_norm" and r.direction == "backward" and r.kind == "share"
    ]
    assert sorted(split[0] + split[1]) == sorted(rules.LARGE)


def test_the_two_modules_name_the_same_things():
    assert (rules.LARGE, rules.SMALL, rules.HOST) == (
        peers_operators.LARGE, peers_operators.SMALL, (peers_operators.HOST,)
    )  # fmt: skip
    assert {
        name: operator.shapes for name, operator in peers_operators.OPERATORS.items() if len(operator.shapes) < 10
    } == rules.SHAPES
    assert {rules.OURS, rules.EAGER, rules.COMPILE, rules.TUNED, rules.LIGER, rules.QUACK} == set(
        peers_operators.VARIANTS
    )


@pytest.mark.parametrize(
    ("operator", "direction", "reads", "writes", "vectors"),
    [
        ("layer_norm_gelu", "forward", 1, 1, 2),
        ("layer_norm_gelu", "backward", 2, 1, 4),
        ("add_rms_norm", "forward", 2, 2, 1),
        ("add_rms_norm", "backward", 3, 1, 2),
        ("swiglu", "backward", 3, 2, 0),
        ("silu", "forward", 1, 1, 0),
    ],
)
def test_fewest_bytes(operator, direction, reads, writes, vectors):
    traffic = peers_operators.OPERATORS[operator].traffic((64, 4096), Direction(direction))
    assert (traffic.reads, traffic.writes) == (reads, writes)
    assert traffic.bytes_moved == 2 * ((reads + writes) * 64 * 4096 + vectors * 4096)


def test_figures_have_a_row_a_shape_in_the_order_of_the_table():
    cells = [cell(shape=(64, 4096)), cell(shape=(8192, 32768)), cell()]
    lines = rules.figures(cells, "rms_norm", "forward").splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["16384x4096", "8192x32768", "64x4096"]
    assert lines[2] == "| 16384x4096 | 67.0 | 150.0 | 130.0 | 120.0 | 100.0 | 0.98 | 1.20 |"


# The plan, and recordings.


def arguments(*more):
    return peers.parsed(["--out", "x.json", *more])


def test_the_whole_table_is_planned():
    cells = peers.planned(arguments())
    assert len(cells) == len(set(cells)) == 2 * (7 * 10 + 4) + 8
    assert (("silu", (16, 4096)), "host") in cells
    quick = peers.planned(arguments("--quick", "--only", "rms_norm"))
    assert [shape for (_, shape), _ in quick] == [(16384, 4096)] * 2 + [(131072, 256)] * 2 + [(64, 4096)] * 2 + [
        (16, 4096)
    ]


def test_shards_share_the_whole_table():
    parts = [peers.planned(arguments("--shard", f"{i}/3")) for i in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(peers.planned(arguments()))
    assert max(map(len, parts)) - min(map(len, parts)) <= 4
    owners = [{key for key, _ in part} for part in parts]
    assert not owners[0] & owners[1]


def test_a_process_gets_no_more_than_its_share():
    keys = list(dict.fromkeys(key for key, _ in peers.planned(arguments())))
    shares = peers.shared_out(keys, 12)
    assert sorted(itertools.chain(*shares)) == sorted(keys)
    loads = [sum(map(peers.cost, share)) for share in shares]
    assert max(loads) < 1.3 * min(loads)


def test_resuming_measures_what_is_missing(tmp_path):
    out = tmp_path / "x.json"
    late = cell(shape=(64, 4096))
    late["variants"]["max-autotune"] = {"absent": "not built: the time for building was over"}
    peers.write(out, {"environment": None, "settings": [], "cells": [cell(), late], "failures": []})
    asked = peers.parsed(["--out", str(out), "--resume", "--quick", "--only", "rms_norm"])
    run = peers.Run(asked, json.loads(out.read_text()))
    wanted = [peers.named(*each) for each in run.wanted]
    assert "rms_norm 16384x4096 forward" not in wanted
    assert {"rms_norm 64x4096 forward", "rms_norm 16384x4096 backward", "rms_norm 16x4096 host"} <= set(wanted)
    run._keep(cell(shape=(64, 4096), ours=77.0))
    assert [c["variants"]["ours"]["us"] for c in run.document["cells"]] == [100.0, 77.0]


def document(*cells, device="NVIDIA Test", **versions):
    environment = {"device": device, "versions": {"torch": "2.11.0"} | versions, "driver": "1"}
    return {"environment": environment, "settings": [{"shard": "x"}], "cells": list(cells), "failures": []}


def test_recordings_of_one_machine_are_joined():
    broken = cell(shape=(64, 4096)) | {"failure": "no"}
    joined = peers.merged([document(cell(), cell(shape=(64, 4096))), document(cell(direction="backward"), broken)])
    assert len(joined["cells"]) == 3
    assert "failure" not in joined["cells"][1]
    assert len(joined["settings"]) == 2
    with pytest.raises(SystemExit, match="device NVIDIA Test and another"):
        peers.merged([document(), document(device="another")])


def test_a_peer_that_is_not_installed_took_no_part():
    """A package of another version did: what it measured cannot be beside the rest."""
    with_both = document(liger="0.8.5", quack="0.6.5")
    with_one = document(liger="0.8.5")
    for order in ([with_both, with_one], [with_one, with_both]):
        assert peers.merged(order)["environment"] == with_both["environment"]
    with pytest.raises(SystemExit, match=r"quack 0\.6\.5 and 0\.7\.0"):
        peers.merged([with_both, document(liger="0.8.5", quack="0.7.0")])


def test_numbers_are_written_on_one_line_and_directories_left_out(tmp_path):
    out = tmp_path / "folder" / "x.json"
    content = {"samples_us": [1.5, -2e-07, 3], "empty": [], "text": "/home/somebody/lib/file.py raised [ 1 ]"}
    peers.write(out, content)
    assert '"samples_us": [1.5, -2e-07, 3]' in out.read_text()
    assert json.loads(out.read_text()) == content | {"text": "file.py raised [ 1 ]"}


def test_a_recording_is_printed_without_a_gpu(tmp_path):
    path = tmp_path / "x.json"
    quack = cell(operator="softmax_dropout")
    quack["variants"]["quack"]["floor"] = "no dropout"
    path.write_text(json.dumps(document(cell(), quack, host(eager=6.9))))
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = [sys.argv[1], '--from', sys.argv[2]]; "
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, peers.__file__, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "## RMSNorm, forward" in found.stdout
    assert "120.0*" in found.stdout
    assert "rows pass" in found.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--shapes", "64"], "--shapes 64: for example 64x4096"),
        (["--shard", "2"], "--shard 2: for example 0/2"),
        (["--only", "gelu"], "invalid choice: 'gelu'"),
    ],
)
def test_bad_arguments(given, message, capsys):
    with pytest.raises(SystemExit):
        arguments(*given)
    assert message in capsys.readouterr().err
