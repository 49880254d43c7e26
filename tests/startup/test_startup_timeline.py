"""Phases partition the time: whatever nests, overlaps or stands still, nothing is counted twice and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuselab.startup.records import Phase
from fuselab.startup.timeline import PAUSE, Mark, partition, phase_of

NAMES = ["dynamo", "GraphLowering.run", "compile_file", "pass.remove_noop", "phase:load", PAUSE]


def nested(*events, thread=1):
    """Marks of (name, begin, end), by time."""
    marks = [Mark(thread, begin, name, True) for name, begin, _ in events]
    marks += [Mark(thread, end, name, False) for name, _, end in events]
    # Of two marks at one instant an end comes before a beginning, and inner events begin after outer ones.
    return sorted(marks, key=lambda m: (m.at_ns, m.begin))


def times(parted):
    return {p.phase: p.duration_ns for p in parted.phases}


def test_an_instant_belongs_to_the_innermost_event_of_a_known_phase():
    marks = nested(
        ("dynamo", 10, 90), ("backend_compile", 20, 80), ("GraphLowering.run", 30, 70), ("pass.remove_noop", 40, 50)
    )
    parted = partition(marks, 0, 100, main=1)
    assert times(parted) == {Phase.DYNAMO: 20, Phase.AOT_AUTOGRAD: 20, Phase.LOWERING: 40}
    assert parted.unattributed_ns == 20
    assert parted.total_ns == 100


def test_another_thread_counts_only_where_the_main_one_has_nothing():
    marks = nested(("dynamo", 0, 40)) + nested(("entire_backward_compile", 30, 90), thread=2)
    parted = partition(marks, 0, 100, main=1)
    assert times(parted) == {Phase.DYNAMO: 40, Phase.AOT_AUTOGRAD: 50}
    assert parted.unattributed_ns == 10


def test_a_pause_is_in_no_figure_and_shifts_what_follows():
    marks = nested(("dynamo", 0, 50), (PAUSE, 20, 30), ("phase:load", 60, 100))
    parted = partition(marks, 0, 100, main=1)
    assert (parted.total_ns, parted.paused_ns, parted.unattributed_ns) == (90, 10, 10)
    assert times(parted) == {Phase.DYNAMO: 40, Phase.LOAD: 40}
    assert parted.intervals[-1].end_ns == 90


def test_an_exception_that_skips_inner_ends_does_not_leak_its_phase():
    marks = [
        Mark(1, 10, "dynamo", True),
        Mark(1, 20, "compile_file", True),
        Mark(1, 40, "dynamo", False),
        Mark(1, 50, "compile_file", False),  # an end without its beginning
    ]
    parted = partition(marks, 0, 100, main=1)
    assert times(parted) == {Phase.DYNAMO: 10, Phase.COMPILATION: 20}
    assert parted.unattributed_ns == 70


def test_events_before_and_after_the_span_are_cut_to_it():
    parted = partition(nested(("dynamo", 0, 1000)), 100, 200, main=1)
    assert times(parted) == {Phase.DYNAMO: 100}
    assert parted.unattributed_ns == 0


def test_an_event_that_never_ends_lasts_to_the_end():
    parted = partition([Mark(1, 30, "compile_file", True)], 0, 100, main=1)
    assert times(parted) == {Phase.COMPILATION: 70}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.sampled_from(NAMES), st.booleans()), max_size=40))
def test_phases_and_the_rest_add_up_to_the_whole_for_any_marks(raw):
    marks = [Mark(thread, at, name, begin) for thread, at, name, begin in sorted(raw, key=lambda r: r[1])]
    parted = partition(marks, 100, 900, main=0)
    assert parted.total_ns + parted.paused_ns == 800
    assert sum(p.duration_ns for p in parted.phases) + parted.unattributed_ns == parted.total_ns
    assert parted.unattributed_ns >= 0
    assert all(p.duration_ns > 0 for p in parted.phases)
    ends = [0, *(i.end_ns for i in parted.intervals)]
    begins = [*(i.begin_ns for i in parted.intervals), parted.total_ns]
    assert all(end <= begin for end, begin in zip(ends, begins, strict=True))


def test_every_phase_that_the_compiler_has_is_reached_by_an_event():
    ours = {Phase.INTERPRETER, Phase.CONSTRUCTION}
    events = [
        "import", "dynamo", "create_aot_dispatcher_function", "inductor_codecache_torch_key", "inductor_compile",
        "Scheduler.codegen", "async_compile.wait", "CachingAutotuner.benchmark_all_configs", "mm_template_autotuning",
        "PyCodeCache.load_by_key_path", "CUDAGraphNode.record", "CompiledFxGraph.__call__",
    ]  # fmt: skip
    assert {phase_of(name) for name in events} | ours == set(Phase)
