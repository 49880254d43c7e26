"""A process of ``peers``: builds and checks its share of the implementations, then times what it is asked to.

It writes one JSON object a line, and reads the cells to time from its standard input, a line each: ``silu 64x4096
forward``. All processes build at once, and one of them times while the others wait: what was compiled need not be
compiled, or traced, again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import peers_operators as peers
import torch
from peers_check import check
from peers_operators import COMPILE, EAGER, HOST_CELL, LIGER, OPERATORS, OURS, QUACK, TUNED, Operator

from fuselab.experiment import Inputs
from fuselab.measure.cell import Work
from fuselab.measure.events_timer import EventsCell
from fuselab.measure.group import Arm, time_group
from fuselab.measure.observation import eager_loops
from fuselab.measure.rotation import COLD_FACTOR, MAX_SETS, Rotation, cache_bytes, free_bytes
from fuselab.measure.statistics import median, median_interval
from fuselab.measure.timing import Timing
from fuselab.measure.verdicts import ABOVE_CEILING, SELF_CERTIFICATION_FAILED, TIMED_OUTPUT_WRONG
from fuselab.records import Clock, Direction, Workload

NEEDED = {LIGER: ("liger_kernel", "liger-kernel"), QUACK: ("quack", "quack-kernels")}
HOST_ROUNDS = 25
Key = tuple[str, tuple[int, int]]


class Worker:
    """Everything that this process has built, by operator and shape."""

    def __init__(self, settings: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        self.device = settings["device"]
        self.seconds = settings["seconds"]
        self.rounds = settings["rounds"]
        self.deadline = settings["build_deadline"]
        self.variants = settings["variants"]
        self.say = say
        self.built: dict[Key, dict[str, Callable[..., Any]]] = {}
        self.failed: dict[Key, dict[str, dict[str, str]]] = {}
        self.checks: dict[Key, dict[str, Any]] = {}
        self.lock = _lock(settings["lock"])

    # Building.

    def build(self, directions: dict[Key, list[str]]) -> None:
        """All variants of all keys, those that search for long last, and none of these after the deadline."""
        for late in (False, True):
            for key, wanted in directions.items():
                operator = OPERATORS[key[0]]
                for variant in sorted(peers.variants_of(operator), key=lambda name: name != EAGER):
                    if variant in self.variants and (variant == TUNED) == late and (not late or wanted != [HOST_CELL]):
                        self._build(operator, key, variant, host=HOST_CELL in wanted)
                gc.collect()
                if self.device == "cuda":
                    torch.cuda.empty_cache()

    def _build(self, operator: Operator, key: Key, variant: str, *, host: bool) -> None:
        started = time.monotonic()
        failed = self.failed.setdefault(key, {})
        if reason := self._unavailable(variant):
            failed[variant] = {"absent": reason}
            return
        try:
            function = peers.build(operator, variant)
            safe = peers.on_copies(function) if variant in operator.overwrites else function
            tensors = self.inputs(operator, key[1])(0).args
            self._first_call(safe, tensors, variant)
            if host and variant == COMPILE:  # without gradients it is compiled once more
                function(*(t.detach() for t in tensors))
            with self.lock.shared():
                found, reason = check(operator, variant, safe, tensors, drops=(key[0], variant) not in peers.FLOORS)
                if self.device == "cuda":
                    torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001 - a peer may raise whatever it likes; the others stand
            failed[variant] = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            print(f"{key} {variant}\n{traceback.format_exc()}", file=sys.stderr)
            return
        self.checks.setdefault(key, {})[variant] = {name: errors.relative() for name, errors in found.items()}
        if reason:
            failed[variant] = {"wrong": reason}
        else:
            self.built.setdefault(key, {})[variant] = function
        self.say({"event": "built", "key": _name(*key), "variant": variant, "seconds": time.monotonic() - started})

    def _first_call(self, function: Callable[..., Any], tensors: Any, variant: str) -> None:
        """Compile, forward and backward; what is tuned has the device for itself."""
        with self._tuning_alone() if variant in (COMPILE, TUNED) else contextlib.nullcontext():
            outputs = function(*tensors)
            outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
            torch.autograd.grad(outputs, list(tensors), [torch.randn_like(y) for y in outputs])
            if self.device == "cuda":
                torch.cuda.synchronize()

    @contextlib.contextmanager
    def _tuning_alone(self) -> Iterator[None]:
        from fuselab.capture.autotuning import exclusive_autotuning

        with exclusive_autotuning(self.lock.alone):
            yield

    def _unavailable(self, variant: str) -> str:
        if variant == TUNED and time.time() > self.deadline:
            return f"{LATE}: the time for building was over"
        if variant in (*NEEDED, TUNED) and self.device != "cuda":
            return "needs a GPU"
        if variant in NEEDED and importlib.util.find_spec(NEEDED[variant][0]) is None:
            return f"not installed: pip install {NEEDED[variant][1]}"
        return ""

    def inputs(self, operator: Operator, shape: tuple[int, int], *, grad: bool = True) -> Callable[[int], Inputs]:
        """A factory of input sets: normal values, weights around one."""

        def factory(index: int) -> Inputs:
            generator = torch.Generator(device=self.device).manual_seed(index)
            tensors = []
            for name in operator.tensors:
                size = shape[1:] if name in ("weight", "bias") else shape
                values = torch.randn(size, generator=generator, device=self.device, dtype=torch.bfloat16)
                if name in ("weight", "bias"):
                    values = values * 0.2 + (name == "weight")
                tensors.append(values.requires_grad_(grad))
            return Inputs(tuple(tensors), names=operator.tensors)

        return factory

    # Timing.

    def cell(self, name: str, shape: tuple[int, int], direction: str) -> dict[str, Any]:
        """One cell as it is recorded."""
        operator, key = OPERATORS[name], (name, shape)
        started = time.monotonic()
        cell: dict[str, Any] = {"operator": name, "shape": list(shape), "direction": direction, "variants": {}}
        try:
            if direction == HOST_CELL:
                self._host(operator, key, cell)
            else:
                self._speed(operator, key, Direction(direction), cell)
        finally:
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()
        order = [variant for variant in peers.variants_of(operator) if variant in self.variants]
        known = {**self.failed.get(key, {}), **cell["variants"]}
        cell["variants"] = {variant: known[variant] for variant in order if variant in known}
        for variant, entry in cell["variants"].items():
            if variant in self.checks.get(key, {}):
                entry["errors"] = _rounded(self.checks[key][variant])
            if floor := peers.FLOORS.get((name, variant)):
                entry["floor"] = floor
        cell["seconds"] = round(time.monotonic() - started, 2)
        return cell

    def _speed(self, operator: Operator, key: Key, direction: Direction, cell: dict[str, Any]) -> None:
        functions = self.built.get(key, {})
        traffic = operator.traffic(key[1], direction)
        cell["bytes"] = traffic.bytes_moved
        cell["mix"] = f"{traffic.reads}:{traffic.writes}"
        if not functions:
            return
        baseline = OURS if OURS in functions else next(iter(functions))
        cell["baseline"] = baseline
        for attempt in range(2):
            timings = self._timings(operator, key, direction, attempt)
            untrusted = _reason(timings[baseline], SELF_CERTIFICATION_FAILED)
            if not untrusted:
                break
        if untrusted:
            cell["untrusted"] = untrusted
        for name, timing in timings.items():
            cell["variants"][name] = _variant(timing, baseline)
        ceiling = next((t.ceiling for t in timings.values() if t.ceiling is not None), None)
        if ceiling is not None:
            cell["ceiling"] = {
                "bytes_per_s": ceiling.bytes_per_s, "us": ceiling.duration_ns / 1e3, "method": ceiling.method
            }  # fmt: skip
        cache = cache_bytes(self.device)
        cell["cold"] = cache is not None and MAX_SETS * traffic.bytes_moved > COLD_FACTOR * cache

    def _timings(self, operator: Operator, key: Key, direction: Direction, seed: int) -> dict[str, Timing]:
        functions, factory = self.built[key], self.inputs(operator, key[1])
        backward = direction is Direction.BACKWARD
        arms = [
            Arm(
                name,
                peers.on_copies(function) if backward and name in operator.overwrites else function,
                factory,
                deterministic=not operator.random,
            )
            for name, function in functions.items()
        ]
        return time_group(
            arms,
            workload=Workload(shape=key[1], dtype="bf16", seed=seed),
            direction=direction,
            device_type=self.device,
            baseline=OURS if OURS in functions else arms[0].name,
            traffic=operator.traffic(key[1], direction),
            seed=seed,
            budget_s=self.seconds,
            max_rounds=self.rounds,
            observe=False,
        )

    def _host(self, operator: Operator, key: Key, cell: dict[str, Any]) -> None:
        """The host's time of issuing a call without gradients."""
        cell["clock"] = "host"
        if self.device != "cuda":
            return
        factory = self.inputs(operator, key[1], grad=False)
        rotation = Rotation(
            factory, touched_bytes=operator.traffic(key[1], Direction.FORWARD).bytes_moved, cache=cache_bytes("cuda"),
            memory_bytes=free_bytes("cuda") // 4,
        )  # fmt: skip
        stream = torch.cuda.Stream()
        cells = {}
        for name, function in self.built.get(key, {}).items():
            if name == TUNED:
                continue  # its calls cost what those of `compile` do
            cells[name] = EventsCell(Work(function, rotation, Direction.FORWARD), stream)
        for name, clocks in eager_loops(cells, HOST_ROUNDS, 0).items():
            samples = clocks[Clock.HOST]
            durations = [sample.duration_ns / 1e3 for sample in samples]
            interval = median_interval(durations)
            cell["variants"][name] = {
                "us": _figure(median(durations)), "low_us": _figure(interval.low), "high_us": _figure(interval.high),
                "samples_us": [_figure(duration) for duration in durations], "calls": samples[0].calls,
            }  # fmt: skip


LATE = "not built"
"""How the reason of a variant begins that another run could still build."""


def _variant(timing: Timing, baseline: str) -> dict[str, Any]:
    if timing.error is not None:
        return {"error": f"{type(timing.error).__name__}: {str(timing.error).strip()[:300]}"}
    if wrong := _reason(timing, TIMED_OUTPUT_WRONG):
        return {"wrong": wrong}
    if timing.median_ns is None or timing.low_ns is None or timing.high_ns is None:
        return {"error": "it has no samples"}
    entry: dict[str, Any] = {
        "us": _figure(timing.median_ns / 1e3),
        "low_us": _figure(timing.low_ns / 1e3),
        "high_us": _figure(timing.high_ns / 1e3),
        "clock": str(timing.clock),
        "share": None if timing.ceiling is None else _figure(timing.ceiling.share),
    }
    compared = None if baseline != OURS or timing.name == OURS else timing.comparison
    if compared is not None and compared.speedup and compared.low and compared.high:
        # A peer's time over ours: the inverse of its speedup.
        entry |= {
            "ratio": _figure(1 / compared.speedup),
            "ratio_low": _figure(1 / compared.high),
            "ratio_high": _figure(1 / compared.low),
            "verdict": str(compared.verdict),
            "rounds": compared.rounds,
        }
    if above := _reason(timing, ABOVE_CEILING):
        entry["above_ceiling"] = above
    others = [w for w in timing.warnings if "other process" not in w]  # the other processes of this benchmark, idle
    if others:
        entry["warnings"] = others
    entry["samples_us"] = [_figure(sample.duration_ns / 1e3) for sample in timing.samples]
    numbers = [sample.round for sample in timing.samples]
    if numbers != list(range(len(numbers))):
        entry["rounds_of_samples"] = numbers
    entry["calls"] = timing.samples[0].calls
    return entry


def _reason(timing: Timing, beginning: str) -> str:
    return next((warning for warning in timing.warnings if warning.startswith(beginning)), "")


def _figure(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def _rounded(errors: Any) -> Any:
    return {name: {what: float(f"{value:.3g}") for what, value in each.items()} for name, each in errors.items()}


def _name(operator: str, shape: tuple[int, int]) -> str:
    return f"{operator} {shape[0]}x{shape[1]}"


def _lock(path: str) -> Any:
    from fuselab.capture.autotuning import DeviceLock

    return DeviceLock(Path(path))


def parsed(text: str) -> tuple[str, tuple[int, int], str]:
    """``silu 64x4096 forward``, as data."""
    operator, shape, direction = text.split()
    rows, columns = map(int, shape.split("x"))
    return operator, (rows, columns), direction


def serve(settings: dict[str, Any], commands: TextIO, events: TextIO) -> None:
    """Build, then time whatever is asked for until the input ends."""

    def say(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    if settings["device"] == "cuda":
        torch.cuda.init()
    worker = Worker(settings, say)
    worker.build({(name, (rows, columns)): directions for name, (rows, columns), directions in settings["tasks"]})
    say({"event": "ready"})
    for line in commands:
        asked = line.strip()
        try:
            say({"event": "cell", "asked": asked, "cell": worker.cell(*parsed(asked))})
        except Exception as error:  # noqa: BLE001 - the cell fails with its reason, the others stand
            traceback.print_exc()
            say({"event": "failed", "asked": asked, "reason": f"{type(error).__name__}: {str(error).strip()[:300]}"})


def main() -> None:
    # What a peer prints must not be taken for an answer.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(json.loads(sys.argv[1]), sys.stdin, events)


if __name__ == "__main__":
    main()
