"""From samples to what is said of each variant: comparisons at each look, the share of the ceiling, labels,
warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fuselab.measure.ceiling import Streaming
from fuselab.measure.certificate import certificate_failure
from fuselab.measure.conditions import is_throttled
from fuselab.measure.launches import DeviceProfile
from fuselab.measure.sequential import Monitor
from fuselab.measure.statistics import median, median_interval, paired_log_ratios, trimmed_estimate
from fuselab.measure.timing import Timing, by_round, summarised
from fuselab.measure.verdicts import (
    ABOVE_CEILING,
    CEILING_TOLERANCE,
    SELF_CERTIFICATION_FAILED,
    THROTTLING_DECIDES,
    TIMED_OUTPUT_WRONG,
    TOO_FAST,
)
from fuselab.records import Ceiling, Clock, Comparison, Conditions, Parts, Sample, Traffic, Verdict

__all__ = ["Clocked", "Evaluation"]

Clocked = Mapping[str, Mapping[Clock, list[Sample]]]
"""Samples by name and clock."""

_FEWEST = 4
"""Rounds that a comparison needs."""
_ALPHA = 0.05
_ALARM_ALPHA = 0.001
"""Level of what withholds speedups: a baseline that differs from itself, a cell above its ceiling. A run has hundreds
of cells, and one false alarm in a run would be too many.
"""
_SHORTEST_NS = {Clock.CPU_MONOTONIC: 400.0, Clock.CUDA_GRAPH: 300.0}
"""Less than one call takes that does anything: the cheapest operator on a CPU, the smallest kernel of a graph. The loop
around it, or the replay, is then a good part of what is timed.
"""
_LAUNCH_BOUND = 1.5
"""An eager loop that takes this many times the device's time waits for the host."""


@dataclass
class Evaluation:
    """Collects what is known of the arms of one group."""

    names: list[str]
    baseline: str
    again: str = ""
    """Name of the baseline's second copy, where there is one."""
    control: tuple[str, str] = ("", "")
    """Names of plain streaming and of the same with ``CONTROL_PERCENT`` more, where they are timed along."""
    cpus: int = 0
    """Cores that this process may run on."""
    conditions: list[Conditions] = field(default_factory=list)
    errors: dict[str, Exception] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Samples of arms that were dropped."""
    cold: dict[str, bool] = field(default_factory=dict)
    launches: dict[str, int | None] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)
    order_seed: int = 0
    margin: float = 0.01
    _share: float = 1.0
    _monitors: dict[str, Monitor] = field(default_factory=dict)
    _warnings: dict[str, list[str]] = field(default_factory=dict)
    _clocks: dict[str, dict[Clock, list[Sample]]] = field(default_factory=dict)
    _settled_alone: bool = False

    def warn(self, name: str, text: str) -> None:
        """Add a warning to one arm."""
        self._warnings.setdefault(name, []).append(text)

    def blame_output(self, name: str, wrong: str) -> None:
        """The arm's timed results are wrong: its speedup will be withheld."""
        self.warn(name, f"{TIMED_OUTPUT_WRONG}: {wrong}")

    def add_parts(self, name: str, parts: Parts, wrong: str) -> None:
        """Forward, backward and both, and how they disagree in words."""
        self.parts[name] = parts
        if wrong:
            self.warn(name, wrong)

    def add_clocks(self, name: str, clocks: Mapping[Clock, list[Sample]]) -> None:
        """Samples of other clocks than the one that the rounds were timed with."""
        self._clocks.setdefault(name, {}).update({clock: samples for clock, samples in clocks.items() if samples})

    def add_profile(self, name: str, profile: DeviceProfile) -> None:
        """What CUPTI saw of one call."""
        self.launches[name] = profile.launches
        kernel = Sample(round=0, position=0, duration_ns=profile.duration_ns)
        gaps = Sample(round=0, position=0, duration_ns=profile.gaps_ns)
        self.add_clocks(name, {Clock.KERNEL: [kernel], Clock.GAPS: [gaps]})
        if profile.streams > 1:
            self.warn(name, f"its kernels ran on {profile.streams} streams")

    def look(self, clocked: Clocked, share: float, margin: float) -> None:
        """Compare every arm with the baseline, spending ``share`` of the error rate."""
        self._share, self.margin = share, margin
        for name in clocked:
            compared = name in self.names or name in (self.again, self.control[1])
            ratios = self._log_ratios(clocked, name) if compared and name != self.baseline else []
            if len(ratios) >= _FEWEST:
                alpha = _ALARM_ALPHA if name == self.again else _ALPHA
                self._monitors.setdefault(name, Monitor(margin=margin, alpha=alpha)).look(ratios, share)
        own = [s.duration_ns for samples in clocked.get(self.baseline, {}).values() for s in samples]
        if own:
            interval = median_interval(own)
            self._settled_alone = math.log(interval.high / interval.low) < 2 * math.log1p(margin)

    @property
    def settled(self) -> bool:
        """Whether every comparison is, the control's included; a baseline that stands alone, when its median is known
        within the margin."""
        known = {n: m.settled for n, m in self._monitors.items() if n != self.again and n not in self.errors}
        alone = not any(name in self.names for name in known)
        return all(known.values()) and (self._settled_alone or not alone)

    def _against(self, name: str) -> str:
        """What ``name`` is compared with."""
        return self.control[0] if name == self.control[1] else self.baseline

    def _clock(self, clocked: Clocked, name: str) -> Clock | None:
        """The clock to compare ``name`` by: the best that both have."""
        own = clocked.get(name, {})
        shared = [clock for clock in own if clock in clocked.get(self._against(name), own)] or list(own)
        order = (Clock.CUDA_GRAPH, Clock.CPU_MONOTONIC, Clock.CUDA_EVENTS)
        return min(shared, key=order.index) if shared else None

    def _log_ratios(self, clocked: Clocked, name: str, *, without_throttling: bool = False) -> list[float]:
        clock, against = self._clock(clocked, name), self._against(name)
        if clock is None or clock not in clocked.get(against, {}):
            return []
        left_out = {c.round for c in self.conditions if is_throttled(c)} if without_throttling else set()
        halves = [{r: d for r, d in by_round(clocked[n][clock]).items() if r not in left_out} for n in (against, name)]
        return [float(ratio) for ratio in paired_log_ratios(*halves)]

    def timings(
        self, clocked: Clocked, traffic: Traffic | None, streaming: Streaming | None, ceiling_name: str
    ) -> dict[str, Timing]:
        """The timing of every arm."""
        certificate, control = self._known(self.again), self._known(self.control[1])
        found = {}
        for name in self.names:
            clocks = dict(clocked.get(name, {}))
            clock = self._clock(clocked, name)
            samples = clocks.pop(clock) if clock is not None else self.samples.get(name, [])
            others = {**self._clocks.get(name, {}), **clocks}
            if clock is not None:
                others.pop(clock, None)
                self._warn_if_too_fast(name, clock, samples)
            comparison = self._comparison(clocked, name, len(samples))
            ceiling = None
            if samples and name not in self.errors and traffic is not None and streaming is not None:
                plain = clocked[ceiling_name]
                ceiling = self._ceiling(name, samples, traffic, streaming, next(iter(plain.values())))
            timing = Timing(
                name=name,
                samples=samples,
                other_clocks={str(c): s for c, s in others.items()},
                clock=clock,
                cold=self.cold.get(name),
                comparison=comparison,
                ceiling=ceiling,
                kernels_launched=self.launches.get(name),
                peak_memory_bytes=self.peaks.get(name),
                saved_bytes=self.saved.get(name),
                conditions=self.conditions,
                labels=self._labels(name, samples, others),
                order_seed=self.order_seed,
                self_comparison=certificate if name == self.baseline else None,
                control_comparison=control if name == self.baseline else None,
                parts=self.parts.get(name),
                error=self.errors.get(name),
            )
            found[name] = summarised(timing)
        self._warn_of_conditions()
        failure = certificate_failure(certificate, control, self.margin)
        for name in self.names if failure else ():
            self.warn(name, f"{SELF_CERTIFICATION_FAILED}: {failure}")
        return {name: replace(timing, warnings=self._warnings.get(name, [])) for name, timing in found.items()}

    def _warn_if_too_fast(self, name: str, clock: Clock, samples: list[Sample]) -> None:
        if samples and median([s.duration_ns for s in samples]) < (shortest := _SHORTEST_NS.get(clock, 0.0)):
            self.warn(
                name,
                f"{TOO_FAST}: a call takes less than the {shortest:.0f} ns of the cheapest operator, so it does nothing"
                " that could be timed; compute something from the inputs, or give it more to do",
            )

    def _known(self, name: str) -> Comparison | None:
        """The comparison of something whose truth is known."""
        monitor = self._monitors.get(name)
        return None if monitor is None else monitor.comparison(self._against(name))

    def _comparison(self, clocked: Clocked, name: str, rounds: int) -> Comparison | None:
        if name == self.baseline:
            if name in self.errors:
                return None
            return Comparison(baseline=name, verdict=Verdict.BASELINE, speedup=1.0, rounds=rounds)
        if self.baseline in self.errors:
            self.warn(name, f"no speedup: the baseline {self.baseline} could not be timed")
            return None
        monitor = self._monitors.get(name)
        if monitor is None or name in self.errors:
            return None
        comparison = monitor.comparison(self.baseline)
        calm = self._log_ratios(clocked, name, without_throttling=True)
        if _FEWEST <= len(calm) < comparison.rounds:
            beside = Monitor(margin=self.margin, alpha=_ALPHA)
            beside.look(calm, self._share)
            verdict = beside.comparison(self.baseline).verdict
            if verdict is not comparison.verdict:
                self.warn(name, f"{THROTTLING_DECIDES}: without them it is {verdict}")
        return comparison

    def _ceiling(
        self, name: str, samples: list[Sample], traffic: Traffic, streaming: Streaming, plain: list[Sample]
    ) -> Ceiling | None:
        ratios = paired_log_ratios(by_round(plain), by_round(samples))
        if len(ratios) < _FEWEST:
            return None
        more = math.log(traffic.bytes_moved / streaming.bytes_moved)
        estimate = trimmed_estimate(ratios)
        low, _ = estimate.interval(_ALARM_ALPHA)
        share = math.exp(estimate.centre + more)
        # Flagged by the interval, not by the estimate: on a noisy machine a cell at the ceiling is above it half the
        # time.
        if low + more > math.log1p(CEILING_TOLERANCE):
            self.warn(name, f"{ABOVE_CEILING}: {share:.2f} times what plain streaming reaches ({streaming.method})")
        duration = median([s.duration_ns for s in plain])
        return Ceiling(
            bytes_per_s=streaming.bytes_moved / duration * 1e9,
            duration_ns=duration,
            share=share,
            method=streaming.method,
        )

    def _labels(self, name: str, samples: list[Sample], others: Mapping[Clock, list[Sample]]) -> list[str]:
        labels = [] if self.cold.get(name, True) else ["warm"]
        loop = others.get(Clock.CUDA_EVENTS)
        if samples and loop:
            device = median([s.duration_ns for s in samples])
            if median([s.duration_ns for s in loop]) > _LAUNCH_BOUND * device:
                labels.append("launch-bound")
        return labels

    def _warn_of_conditions(self) -> None:
        throttled = [c for c in self.conditions if is_throttled(c)]
        loads = [c.load_average for c in self.conditions if c.load_average is not None]
        # Timing itself makes a load of at most one a core.
        busy = median(loads) if loads else 0.0
        foreign = max((c.foreign_processes for c in self.conditions), default=0)
        for name in self.names:
            if throttled:
                reasons = sorted({reason for c in throttled for reason in c.throttle_reasons})
                self.warn(name, f"throttled in {len(throttled)} of {len(self.conditions)} rounds: {', '.join(reasons)}")
            if self.cpus and busy > self.cpus + 0.5:
                self.warn(name, f"other processes were at work: load average {busy:.1f} on {self.cpus} cores")
            if foreign:
                self.warn(name, f"{foreign} other process{'es' if foreign > 1 else ''} on the device")
