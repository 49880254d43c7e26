"""Times all variants of one group together, in rounds.

In a round every variant is timed once, in an order drawn anew; with them the plain streaming that gives the ceiling,
and on a GPU a second copy of the baseline, by which the group certifies itself. At planned rounds the comparisons are
looked at, and timing stops when all are settled, when the planned rounds are over, or when time is up. An arm that
raises is dropped with its error, the others stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fuselab.errors import UnknownNameError
from fuselab.measure.calls import differentiable_outputs, forward, gradient_targets, named_outputs
from fuselab.measure.ceiling import Streaming, cpu_streaming, cuda_streaming, with_more
from fuselab.measure.cell import Cell, Work
from fuselab.measure.certificate import CONTROL_BYTES, CONTROL_PERCENT
from fuselab.measure.conditions import Watch
from fuselab.measure.cpu_timer import CpuCell, Threads, fixed_threads
from fuselab.measure.cuda_timer import CaptureError, GraphCell
from fuselab.measure.evaluation import Evaluation
from fuselab.measure.events_timer import EventsCell
from fuselab.measure.located import SharedPool
from fuselab.measure.observation import differs, eager_loops, observe_arm, on_stream
from fuselab.measure.rotation import Rotation, cache_bytes, free_bytes, tensor_bytes
from fuselab.measure.sequential import MIN_ROUNDS, plan_looks
from fuselab.measure.statistics import draw_order
from fuselab.measure.timing import Arm, Timing
from fuselab.records import Clock, Conditions, Direction, Sample, Traffic, Workload

__all__ = ["AGAIN", "CEILING", "CONTROL", "PLAIN", "Arm", "Timing", "time_group"]

CEILING = "(ceiling)"
"""Name in the rounds of the plain streaming."""
PLAIN = "(plain streaming)"
"""Name in the rounds of the plain streaming that the control is compared with, where it is not the ceiling's."""
CONTROL = "(2% more)"
"""Name in the rounds of the control: plain streaming of 2% more."""
AGAIN = "(baseline again)"
"""Name in the rounds of the second copy of the baseline."""

_COPY = Traffic(bytes_read=CONTROL_BYTES // 2, bytes_written=CONTROL_BYTES // 2)
_EVENTS = " (events)"
_EAGER_LOOP_ROUNDS = 5
_RENEWAL = 10
"""Rounds after which graphs are captured anew."""
_MEMORY_SHARE = 0.4
"""Share of the free memory that the rotating sets of a group may take, outputs of all arms included."""
_FEWEST_ROUNDS = 5
"""What the smallest number of rounds falls to where one round takes longer than the budget of all."""


def time_group(
    arms: Sequence[Arm],
    *,
    workload: Workload,
    direction: Direction,
    device_type: str,
    baseline: str,
    traffic: Traffic | None,
    seed: int,
    budget_s: float,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = 200,
    progress: Callable[[int, int], None] | None = None,
    margin: float = 0.01,
    stop_early: bool = True,
    cold: bool = True,
    observe: bool = True,
) -> dict[str, Timing]:
    """Time ``arms`` against ``baseline``.

    Args:
        arms: the variants, all of which passed the correctness gate.
        workload: of the group; its seed draws the gradients of the outputs.
        direction: forward (a training forward) or backward.
        device_type: ``cpu`` or ``cuda``.
        baseline: name of the arm that speedups are quoted against.
        traffic: bytes that have to move and the mix of reads and writes; None for no ceiling.
        seed: of the order of the rounds.
        budget_s: seconds of timing for each arm. Preparing (warming up, capturing) is not in it.
        min_rounds: rounds before the first look.
        max_rounds: most rounds.
        progress: called after each round with its number from 1 and the number planned.
        margin: within which two variants count as equally fast.
        stop_early: False takes all rounds that the budget allows, for calibration.
        cold: rotate buffers beyond twice the last-level cache; False uses the same buffers again and again.
        observe: also take the other clocks, launches, memory and the parts of a step, once each.

    Returns:
        A timing for each arm, by name, in the order given.

    Raises:
        UnknownNameError: there is no arm of the baseline's name.
        ValueError: two arms have one name.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"two arms have one name: {', '.join(sorted(names))}")
    if baseline not in names:
        raise UnknownNameError("baseline", baseline, names)
    with fixed_threads() as threads, Watch(device_type) as watch:
        group = _Group(arms, workload, direction, device_type, baseline, traffic, threads, cold=cold)
        try:
            group.prepare()
            group.run_rounds(watch, seed, budget_s, min_rounds, max_rounds, progress, margin, stop_early=stop_early)
            if observe:
                group.observe(seed)
            group.check_outputs()
            return group.timings(watch)
        finally:
            group.close()


@dataclass
class _Member:
    """Something that is timed once a round."""

    name: str
    cell: Cell
    samples: list[Sample] = field(default_factory=list)


class _Group:
    """The state of one ``time_group``."""

    def __init__(
        self,
        arms: Sequence[Arm],
        workload: Workload,
        direction: Direction,
        device_type: str,
        baseline: str,
        traffic: Traffic | None,
        threads: Threads,
        *,
        cold: bool,
    ) -> None:
        # The baseline is prepared first: the others' clock depends on whether it can be captured.
        self.arms = {arm.name: arm for arm in arms}
        self.first = sorted(self.arms, key=lambda name: name != baseline)
        self.workload = workload
        self.direction = direction
        self.device_type = device_type
        self.baseline = baseline
        self.traffic = traffic
        self.threads = threads
        self.cold = cold
        self.stream = torch.cuda.Stream() if device_type == "cuda" else None
        self.pool = SharedPool(self.stream) if self.stream is not None else None
        self.works: dict[str, Work] = {}
        self.members: dict[str, _Member] = {}
        self.expected: dict[str, list[Tensor]] = {}
        self.streaming: Streaming | None = None
        self.rotations: dict[int, Rotation] = {}
        self.evaluation = Evaluation(list(self.arms), baseline, AGAIN, cpus=len(threads.cpus))

    def prepare(self) -> None:
        """Warm up every arm and whatever is timed with them."""
        for name in self.first:
            with self._dropping(name):
                arm = self.arms[name]
                work = Work(arm.implementation, self._rotation(arm), self.direction, self.workload.seed)
                self.works[name] = work
                with on_stream(self.stream):
                    self.expected[name] = [t.clone() for t in work.once(0)] if arm.deterministic else []
                self.members[name] = _Member(name, self._cell(name, work))
        on_gpu = self.stream is not None and self.baseline in self.members
        if on_gpu and self.stream is not None:
            self._add_events_cells(self.stream)
            self._add(AGAIN, self.works[self.baseline])
        if self.traffic is not None and self.traffic.bytes_moved > 0 and self.members:
            try:
                on_cuda = self.device_type == "cuda"
                plain = cuda_streaming(self.traffic) if on_cuda else cpu_streaming(self.traffic, self.threads.count)
            except (ImportError, RuntimeError) as error:  # no triton, or no memory for it
                self.evaluation.warn(self.baseline, f"the ceiling was not measured: {error}")
            else:
                self.streaming = plain
                self._add(CEILING, self._plain(plain))
        if on_gpu:
            self._add_control()

    def _add_control(self) -> None:
        """Something with exactly 2% more work, beside the same without."""
        usual = self.traffic if self.traffic is not None and self.traffic.bytes_moved > 0 else _COPY
        same, more = with_more(usual, percent=CONTROL_PERCENT, at_least=CONTROL_BYTES)
        try:
            if same == self.traffic and self.streaming is not None:
                plain, against = self.streaming, CEILING
            else:
                plain, against = cuda_streaming(same), PLAIN
                self._add(PLAIN, self._plain(plain))
            self._add(CONTROL, self._plain(cuda_streaming(more, plain.configuration)))
        except (ImportError, RuntimeError) as error:
            self.evaluation.warn(self.baseline, f"the control with 2% more was not timed: {error}")
        else:
            self.evaluation.control = (against, CONTROL)

    def _plain(self, plain: Streaming) -> Work:
        rotation = Rotation(
            plain.inputs_factory,
            touched_bytes=plain.bytes_moved,
            cache=cache_bytes(self.device_type),
            memory_bytes=int(free_bytes(self.device_type) * _MEMORY_SHARE),
            bytes_per_set=plain.bytes_moved,
            cold=self.cold,
        )
        return Work(plain.implementation, rotation, Direction.FORWARD)

    def _rotation(self, arm: Arm) -> Rotation:
        """The sets of the arm's factory, as many as make caches cold and memory allows."""
        key = id(arm.inputs_factory)
        if key not in self.rotations:
            with on_stream(self.stream):
                inputs = arm.inputs_factory(0)
                raw = forward(arm.implementation, inputs)
                outputs = [t.detach() for _, t in named_outputs(raw)]
                touched = allocated = tensor_bytes(inputs, outputs)
                if self.direction is Direction.BACKWARD:
                    started = [t.detach() for _, t in differentiable_outputs(raw)]
                    gradients = [t.detach() for _, t in gradient_targets(inputs, arm.implementation)]
                    touched = sum(tensor_bytes(group) for group in (started, gradients, inputs))
                    allocated += 2 * touched  # what the forward saves beyond its inputs, and the gradients
                del raw
            if self.traffic is not None and self.traffic.bytes_moved:
                touched = min(touched, self.traffic.bytes_moved)
            self.rotations[key] = Rotation(
                arm.inputs_factory,
                touched_bytes=touched,
                cache=cache_bytes(self.device_type),
                memory_bytes=int(free_bytes(self.device_type) * _MEMORY_SHARE),
                bytes_per_set=allocated * (2 if self.device_type == "cuda" else len(self.arms) + 2),
                cold=self.cold,
            )
        return self.rotations[key]

    def _cell(self, name: str, work: Work) -> Cell:
        first = self.members.get(self.baseline)
        like = None if first is None else first.cell
        if self.stream is None:
            return CpuCell(work, like=like if isinstance(like, CpuCell) else None)
        try:
            like = like if isinstance(like, GraphCell) else None
            return GraphCell(work, self.stream, pool=self.pool, seed=self.workload.seed, like=like)
        except CaptureError as error:
            self.evaluation.warn(name, f"not captured into a CUDA graph, timed with dispatch included: {error}")
            return EventsCell(work, self.stream)

    def _add(self, name: str, work: Work) -> None:
        """Time ``work`` along, under a name of the group's own; that it cannot be is worth a warning, no more."""
        try:
            self.members[name] = _Member(name, self._cell(name, work))
        except (RuntimeError, ValueError) as error:
            self.evaluation.warn(self.baseline, f"{name} could not be timed: {error}")

    def _add_events_cells(self, stream: torch.cuda.Stream) -> None:
        """Where an arm or the baseline has no graph, the two are compared in eager loops, and both are timed so."""
        plain = {name for name, member in self.members.items() if member.cell.clock is Clock.CUDA_EVENTS}
        if not plain:
            return
        wanted = set(self.members) if self.baseline in plain else {self.baseline}
        for name in wanted - plain:
            self.members[name + _EVENTS] = _Member(name + _EVENTS, EventsCell(self.works[name], stream))

    @contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        """Drop the arm ``name`` where it raises: whatever a user's code raises is its own cell's affair."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - recorded in the arm's timing; the others must be timed
            owner = name.removesuffix(_EVENTS)
            self.evaluation.errors[owner] = error
            for member in (owner, owner + _EVENTS):
                dropped = self.members.pop(member, None)
                if dropped is not None:
                    self.evaluation.samples[member] = dropped.samples

    def run_rounds(
        self,
        watch: Watch,
        seed: int,
        budget_s: float,
        min_rounds: int,
        max_rounds: int,
        progress: Callable[[int, int], None] | None,
        margin: float,
        *,
        stop_early: bool,
    ) -> None:
        """Time rounds until everything is settled or nothing is left to spend."""
        if not self.members:
            return
        generator = np.random.default_rng([seed & (2**64 - 1), 1])
        deadline = time.monotonic() + budget_s * len(self.members)
        evaluation = self.evaluation
        evaluation.order_seed = seed
        looks, taken, number = None, 0, 0
        while looks is None or number < looks.last:
            started = time.monotonic()
            evaluation.conditions.append(self._round(watch, seed, number))
            if self.device_type != "cuda":
                for rotation in self.rotations.values():
                    rotation.renew(generator)
            number += 1
            if looks is None:  # the first round is the pilot: it says how many the budget holds
                affordable = int(budget_s * len(self.members) / max(time.monotonic() - started, 1e-9))
                least = min(min_rounds, max(_FEWEST_ROUNDS, affordable))
                looks = plan_looks(least, max(least, min(max_rounds, affordable)))
            if progress is not None:
                progress(number, looks.last)
            late = time.monotonic() > deadline and number >= looks.rounds[0]
            if number == looks.rounds[taken] or late:
                share = looks.shares[taken] if number == looks.rounds[taken] else looks.share_left(taken)
                evaluation.look(self._clocked(), share if stop_early else 1.0, margin)
                taken += 1
                if late or (stop_early and evaluation.settled):
                    break
            if number % _RENEWAL == 0:
                self._renew(budget_s)

    def _round(self, watch: Watch, seed: int, number: int) -> Conditions:
        conditions = None
        for position, name in enumerate(draw_order(list(self.members), seed, number)):
            member = self.members.get(name)
            if member is None:
                continue  # dropped within this round, with its twin
            with self._dropping(name):
                duration, calls = member.cell.sample()
                member.samples.append(Sample(round=number, position=position, duration_ns=duration, calls=calls))
            # Between two samples, not after the last: an idle device has its clocks down within milliseconds.
            conditions = conditions or watch.record(number)
        return conditions or watch.record(number)

    def _renew(self, budget_s: float) -> None:
        """Let other inputs go with the places that are written to, for all alike, where that takes little of the
        budget."""
        cells = {name: m.cell for name, m in self.members.items() if isinstance(m.cell, GraphCell)}
        if sum(cell.capture_s for cell in cells.values()) < 0.1 * budget_s * len(self.members):
            for name, cell in cells.items():
                with self._dropping(name):
                    cell.renew()

    def _clocked(self) -> dict[str, dict[Clock, list[Sample]]]:
        """Samples of every member by name and clock, the events cells under their arm's name."""
        found: dict[str, dict[Clock, list[Sample]]] = {}
        for name, member in self.members.items():
            found.setdefault(name.removesuffix(_EVENTS), {})[member.cell.clock] = member.samples
        return found

    def observe(self, seed: int) -> None:
        """The other clocks, launches, memory and parts of every arm that is still there."""
        evaluation = self.evaluation
        for name in self.arms:
            member = self.members.get(name)
            if member is None:
                continue
            work = self.works[name]
            with self._dropping(name):
                observe_arm(evaluation, name, member.cell, work, self.stream, seed)
        if self.stream is not None:
            cells: dict[str, EventsCell] = {}
            for name in [n for n in self.arms if n in self.members]:
                with self._dropping(name):
                    cells[name] = EventsCell(self.works[name], self.stream)
            for name, clocks in eager_loops(cells, _EAGER_LOOP_ROUNDS, seed).items():
                evaluation.add_clocks(name, clocks)

    def check_outputs(self) -> None:
        """Compare what the timed calls left with what a call gave before, or ask the arm's own check."""
        for name, arm in self.arms.items():
            member = self.members.get(name)
            timed = None if member is None else member.cell.timed_output()
            if timed is None:
                continue
            with self._dropping(name):
                if arm.check_output is not None:
                    wrong = arm.check_output(*timed)
                else:
                    wrong = differs(self.expected[name], timed[1]) if arm.deterministic else ""
                if wrong:
                    self.evaluation.blame_output(name, wrong)

    def timings(self, watch: Watch) -> dict[str, Timing]:
        """The timing of each arm."""
        if watch.unavailable:
            self.evaluation.warn(self.baseline, f"conditions were not recorded: {watch.unavailable}")
        streaming = self.streaming if CEILING in self.members else None
        found = self.evaluation.timings(self._clocked(), self.traffic, streaming, CEILING)
        if self.device_type == "cpu":
            found = {name: replace(t, labels=["CPU", *t.labels]) for name, t in found.items()}
        return found

    def close(self) -> None:
        """Let go of everything."""
        for member in self.members.values():
            member.cell.close()
        self.members.clear()
        self.works.clear()
        self.rotations.clear()
