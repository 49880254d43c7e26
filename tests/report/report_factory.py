"""Cells for the report's tests: every field that a table reads, with round defaults."""

from __future__ import annotations

from typing import Any

from fuselab.records import (
    Ceiling,
    Clock,
    Comparison,
    Correctness,
    Direction,
    Environment,
    Kernel,
    Measurement,
    RunMetadata,
    RunStatus,
    Sample,
    Status,
    Verdict,
    Workload,
)

CPU = Environment(
    device="CPU AMD EPYC 7R13, 2 cores",
    device_type="cpu",
    python="3.11.9",
    versions={"torch": "2.13.0", "triton": "3.7.1", "fuselab": "0.1.0"},
)
H200 = Environment(
    device="NVIDIA H200", device_type="cuda", driver="575.57", versions={"torch": "2.11.0", "triton": "3.6.0"}
)


def workload(**fields: Any) -> Workload:
    return Workload(**{"shape": (4096, 1024), "dtype": "f32", "options": {"approximate": "none"}, **fields})


def cell(variant: str = "eager", time_us: float = 12.0, **fields: Any) -> Measurement:
    """A timed, correct cell; ``time_us`` with an interval of half a per cent."""
    ns = time_us * 1e3
    defaults: dict[str, Any] = {
        "experiment": "layer_norm_gelu",
        "variant": variant,
        "workload": workload(),
        "direction": Direction.FORWARD,
        "status": Status.OK,
        "device": CPU.device,
        "correctness": Correctness(correct=True),
        "clock": Clock.CPU_MONOTONIC,
        "samples": [Sample(round=0, position=0, duration_ns=ns)],
        "median_ns": ns,
        "low_ns": ns * 0.995,
        "high_ns": ns * 1.005,
        "labels": ["CPU"],
        "kernels_launched": 1,
        "ceiling": Ceiling(bytes_per_s=2e10, duration_ns=ns * 0.9, share=0.9, method="torch.add"),
    }
    if variant == "eager":
        defaults["comparison"] = Comparison(baseline="eager", verdict=Verdict.BASELINE)
    return Measurement(**{**defaults, **fields})


def compared(speedup: float, half: float = 0.02, verdict: Verdict | None = None) -> Comparison:
    """A comparison with an interval of ``half`` on either side."""
    low, high = speedup - half, speedup + half
    by_interval = Verdict.FASTER if low > 1.01 else Verdict.SLOWER if high < 0.99 else Verdict.EQUIVALENT
    return Comparison(baseline="eager", verdict=verdict or by_interval, speedup=speedup, low=low, high=high, rounds=30)


def failed(variant: str, status: Status, reason: str, **fields: Any) -> Measurement:
    """A cell without figures."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("median_ns", "low_ns", "high_ns", "comparison", "ceiling", "kernels_launched", "clock")
    )
    correct = Correctness(correct=False, reason=reason) if status is Status.WRONG else None
    return cell(
        variant, **{**nothing, "samples": [], "labels": [], "status": status, "reason": reason,
                    "correctness": correct, **fields},
    )  # fmt: skip


def a_run() -> list[Measurement]:
    """Two experiments as a CPU run leaves them: figures, a checked cell, a wrong one, a crash, a missing peer."""
    back = {"direction": Direction.BACKWARD}
    rms = {
        "experiment": "rms_norm",
        "workload": workload(shape=(2, 512, 4096), options={"residual": True, "casting": "llama"}),
    }
    checked = Correctness(correct=True, checked_shape=(8, 1024))
    liger = "liger-kernel is not installed: pip install liger-kernel"
    cells = []
    for direction, slow in ((Direction.FORWARD, 1.0), (Direction.BACKWARD, 2.6)):
        cells += [
            cell("eager", 12341.7 * slow, direction=direction, kernels_launched=2),
            cell("compile", 3212.0 * slow, direction=direction, comparison=compared(3.84, 0.04),
                 warnings=["the load of this machine was 3.1 on 2 cores: intervals are wide"]),
            failed("triton", Status.CHECKED, "checked in Triton's interpreter, not timed", direction=direction,
                   correctness=checked, labels=["interpreter"]),
            failed("liger", Status.UNAVAILABLE, liger, direction=direction),
        ]  # fmt: skip
    cells += [
        cell("eager", 812.0, **rms, kernels_launched=6),
        cell("compile", 806.1, **rms, comparison=compared(1.004, 0.006), labels=["CPU", "warm"]),
        failed("compile-max-autotune", Status.WRONG, "output: rms error 0.02 is 31x eager's own 0.00065", **rms),
        failed("liger", Status.UNAVAILABLE, liger, **rms),
        cell("eager", 1633.0, **rms, **back, kernels_launched=9),
        cell("compile", 1910.0, **rms, **back, comparison=compared(0.85, 0.03), labels=["CPU", "warm", "launch-bound"]),
        failed("compile-max-autotune", Status.CRASHED, "killed by signal 11 (segmentation fault)", **rms, **back),
        failed("liger", Status.UNAVAILABLE, liger, **rms, **back),
    ]
    return cells


def kernel(**fields: Any) -> Kernel:
    """A kernel of ``compile``."""
    key = workload().key
    return Kernel(
        **{
            "kernel_id": f"compile/{key}/forward/cpp_fused_0",
            "name": "cpp_fused_native_layer_norm_gelu_0",
            "backend": "cpp",
            "variant": "compile",
            "workload": key,
            "direction": Direction.FORWARD,
            "file_path": f"kernels/compile/{key}/forward/cpp_fused_0/kernel.cpp",
            "size_bytes": 2312,
            "created_at": "2026-01-02T03:04:05Z",
            "operations": ["aten.native_layer_norm.default", "aten.gelu.default"],
            "launches": 1,
            **fields,
        }
    )


def metadata(**fields: Any) -> RunMetadata:
    """The metadata of ``a_run``'s first experiment."""
    return RunMetadata(
        **{
            "id": "layer_norm_gelu/20260102T030405Z-0a1b2c",
            "experiment": "layer_norm_gelu",
            "description": "LayerNorm, then GELU",
            "status": RunStatus.COMPLETE,
            "created_at": "2026-01-02T03:04:05.000000Z",
            "finished_at": "2026-01-02T03:07:17.000000Z",
            "command": ["fuselab", "run"],
            "preset": "quick",
            "plan": [workload()],
            "variants": ["eager", "compile", "triton", "liger"],
            "directions": list(Direction),
            "kernels": [kernel()],
            **fields,
        }
    )
