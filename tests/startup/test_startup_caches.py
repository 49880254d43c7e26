"""Which cache hit or missed, and which component of its key has changed."""

from __future__ import annotations

from fuselab.startup.caches import (
    MOST_CHANGES,
    cache_environment,
    changes,
    components_of,
    explained,
    libraries,
    triton_groups,
    uses,
)
from fuselab.startup.records import CacheName, Lookup

LINES = [
    "[aaa] gm: <lambda>()\n\ndef forward(self, x):\n    return x",
    "[bbb] example_inputs[0]: TensorMetadata(dtype=torch.float32, shape=torch.Size([8, 512]))",
    "[ccc] inductor_config[cpp.threads]: -1",
    "[ddd] deterministic_algorithms_settings: (False, False, True)",
]


def test_components_are_read_with_their_values_on_one_line():
    parts = components_of(LINES).parts
    assert parts["gm"] == ("aaa", "<lambda>() def forward(self, x): return x")
    assert parts["example_inputs[0]"][0] == "bbb"
    assert parts["inductor_config[cpp.threads]"] == ("ccc", "-1")
    assert set(parts) == {
        "gm", "example_inputs[0]", "inductor_config[cpp.threads]", "deterministic_algorithms_settings"
    }  # fmt: skip
    assert components_of(["not such a line", ""]).parts == {}
    assert len(components_of(["[a] gm: " + "x" * 1000]).parts["gm"][1]) == 160


def test_changes_name_what_differs_what_is_new_and_what_is_gone():
    after = [LINES[0], LINES[1].replace("bbb", "b2").replace("8, 512", "16, 512"), LINES[3], "[eee] new[0]: 1"]
    found = {c.component: (c.before, c.after) for c in changes(components_of(LINES), components_of(after))}
    assert set(found) == {"example_inputs[0]", "inductor_config[cpp.threads]", "new[0]"}
    assert "[8, 512]" in found["example_inputs[0]"][0]
    assert "[16, 512]" in found["example_inputs[0]"][1]
    assert found["inductor_config[cpp.threads]"] == ("-1", "")
    assert found["new[0]"] == ("", "1")
    assert changes(components_of(LINES), components_of(LINES)) == []


def test_only_a_miss_of_a_filled_cache_is_explained_by_the_lookup_at_the_same_place():
    now = components_of([LINES[0], "[x] inductor_config[cpp.threads]: 4"])
    before = components_of([LINES[0], LINES[2]])
    graph = CacheName.FX_GRAPH
    lookups = [
        Lookup(cache=graph, state="hit"),
        Lookup(cache=graph, state="miss"),
        Lookup(cache=graph, state="miss"),
        Lookup(cache=CacheName.CPP, state="miss"),
    ]
    found = explained(lookups, [now, now, now, components_of([])], {(graph, 0): before, (graph, 1): before})
    assert [len(lookup.changed) for lookup in found] == [0, 1, 0, 0]
    assert found[1].changed[0].component == "inductor_config[cpp.threads]"
    assert (found[1].changed[0].before, found[1].changed[0].after) == ("-1", "4")


def test_very_many_changes_are_counted_not_listed():
    before = components_of([f"[{n}] inductor_config[{n}]: 0" for n in range(50)])
    after = components_of([f"[x{n}] inductor_config[{n}]: 1" for n in range(50)])
    lookup = Lookup(cache=CacheName.FX_GRAPH, state="miss")
    (found,) = explained([lookup], [after], {(CacheName.FX_GRAPH, 0): before})
    assert len(found.changed) == MOST_CHANGES
    assert "50 components changed" in found.reason


def test_uses_have_every_cache_and_say_its_state():
    lookups = [
        Lookup(cache=CacheName.FX_GRAPH, state="hit"),
        Lookup(cache=CacheName.CPP, state="miss"),
        Lookup(cache=CacheName.CPP, state="hit"),
        Lookup(cache=CacheName.AOT_AUTOGRAD, state="bypass"),
    ]
    states = {use.cache: use.state for use in uses(lookups)}
    assert states == {
        CacheName.AOT_AUTOGRAD: "bypass",
        CacheName.FX_GRAPH: "hit",
        CacheName.TRITON: "unused",
        CacheName.CPP: "mixed",
        CacheName.AUTOTUNE: "unused",
    }


def test_files_of_the_caches_are_found_by_their_kind(tmp_path):
    assert libraries(tmp_path) == triton_groups(tmp_path) == frozenset()
    variables = cache_environment(tmp_path)
    assert variables["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
    (tmp_path / "inductor" / "ab").mkdir(parents=True)
    (tmp_path / "inductor" / "ab" / "kernel.so").touch()
    (tmp_path / "inductor" / "ab" / "kernel.cpp").touch()
    (tmp_path / "triton" / "HASH").mkdir(parents=True)
    (tmp_path / "triton" / "HASH" / "__grp__kernel.json").touch()
    (tmp_path / "triton" / "UNFINISHED").mkdir()
    assert libraries(tmp_path) == {"ab/kernel.so"}
    assert triton_groups(tmp_path) == {"HASH"}
