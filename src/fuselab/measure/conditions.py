"""State of the device beside each round: clocks, throttling, power, temperature, other processes. Nothing here needs
root.

On a GPU the driver's management library is asked through ``pynvml`` where that is installed; what it cannot say is
None.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from fuselab.records import Conditions

__all__ = ["THROTTLING", "Watch", "is_throttled"]

_REASONS = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of NVML's clocks event reasons; 0x1 is idleness."""

THROTTLING = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)
"""Reasons that come and go with load; the others are settings and hold for a whole run."""

_PROCESSES_EVERY = 8
"""Rounds between two looks at the processes, which take about a millisecond."""


def is_throttled(conditions: Conditions) -> bool:
    """Whether the device was slowed down by power or heat in this round."""
    return not THROTTLING.isdisjoint(conditions.throttle_reasons)


def reasons_of(bits: int) -> list[str]:
    """Names of the reasons in a bit mask, idleness left out.

    Example:
        >>> reasons_of(0x1 | 0x4)
        ['sw_power_cap']
    """
    return [name for bit, name in _REASONS.items() if bits & bit]


class Watch:
    """Records conditions; a context manager, because NVML is opened and shut."""

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self._nvml: Any = None
        self._handle: Any = None
        self._foreign = 0
        self.unavailable = ""
        """Why a GPU's conditions are not recorded; empty where they are."""

    def __enter__(self) -> Watch:
        if self.device_type == "cuda":
            try:
                import pynvml
            except ImportError:
                self.unavailable = "pynvml is not installed (pip install 'fuselab[cuda]')"
                return self
            try:
                pynvml.nvmlInit()
                self._handle = _handle(pynvml)
                self._nvml = pynvml
            except (pynvml.NVMLError, OSError) as error:
                self.unavailable = f"NVML: {error}"
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = self._handle = None

    def record(self, round_number: int) -> Conditions:
        """The conditions now."""
        if self.device_type != "cuda":
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            return Conditions(round=round_number, load_average=load)
        nvml, handle = self._nvml, self._handle
        if nvml is None:
            return Conditions(round=round_number)
        if round_number % _PROCESSES_EVERY == 0:
            processes = self._ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
            self._foreign = _foreign([p.pid for p in processes or []])
        read_reasons = getattr(
            nvml, "nvmlDeviceGetCurrentClocksEventReasons", nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        )
        power = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        return Conditions(
            round=round_number,
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            power_w=None if power is None else power / 1000.0,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=reasons_of(self._ask(read_reasons, handle) or 0),
            foreign_processes=self._foreign,
        )

    def _ask(self, query: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None: boards and virtual GPUs differ in what they support."""
        try:
            return query(*arguments)
        except self._nvml.NVMLError:
            return None


def _foreign(pids: Sequence[int]) -> int:
    """Processes that are not this one. In a container the driver may number ours as the host does; then one is taken
    as ours.

    Example:
        >>> _foreign([os.getpid(), -5]), _foreign([-5]), _foreign([])
        (1, 0, 0)
    """
    others = [pid for pid in pids if pid != os.getpid()]
    return len(others) if len(others) < len(pids) else max(0, len(others) - 1)


def _handle(nvml: Any) -> Any:
    """NVML's handle of torch's current device, by its UUID: the two number devices differently."""
    import torch

    index = torch.cuda.current_device()
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if uuid is not None:
        text = str(uuid)
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}")
    return nvml.nvmlDeviceGetHandleByIndex(index)
