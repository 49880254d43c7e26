"""What torch, Inductor and Triton ask of a device while they generate code, answered from a described one.

For a process of its own. Called after torch was imported and, where the whole process is described, before torch's
compiler is: the compiler takes several of these functions by reference when it is imported. Where only lowering is
(``tracing``, the second way), everything is put back after each graph. Written against torch 2.11 to 2.15 and Triton
3.6 to 3.9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from fuselab.offline import internals
from fuselab.offline.binaries import resources
from fuselab.targets import Target

__all__ = ["Description", "capability", "is_amd"]

STATIC_SHARED_BYTES = 48 << 10
"""Shared memory that a block has without opting in: CUDA C++ Programming Guide, all compute capabilities."""

CUDA_VERSION = "13.0"
ROCM_VERSION = "7.0.0"
"""Versions that a CPU build of torch says it was built for; code generation asks whether there is one."""


def capability(target: Target) -> tuple[int, int]:
    """The compute capability, or for AMD the first digits of the architecture, as HIP has them (gfx942: 9, 4)."""
    if target.compute_capability is not None:
        return target.compute_capability
    digits = target.arch.removeprefix("gfx")
    return int(digits[:-2]), int(digits[-2])


def is_amd(target: Target) -> bool:
    """Whether a target is AMD's."""
    return target.arch.startswith("gfx")


def properties(target: Target) -> SimpleNamespace:
    """What ``torch.cuda.get_device_properties`` would return, as far as a datasheet knows it."""
    major, minor = capability(target)
    amd = is_amd(target)
    return SimpleNamespace(
        name=target.device_name,
        major=major,
        minor=minor,
        gcnArchName=f"{target.arch}:sramecc+:xnack-" if amd else "",
        multi_processor_count=target.multiprocessors,
        max_threads_per_multi_processor=target.max_threads_per_multiprocessor,
        max_threads_per_block=1024,
        warp_size=target.warp_size,
        regs_per_multiprocessor=target.registers_per_multiprocessor,
        total_memory=target.memory_bytes,
        L2_cache_size=target.l2_bytes,
        shared_memory_per_block=min(STATIC_SHARED_BYTES, target.shared_bytes_per_block),
        shared_memory_per_block_optin=target.shared_bytes_per_block,
        shared_memory_per_multiprocessor=target.shared_bytes_per_multiprocessor,
        is_integrated=False,
        is_multi_gpu_board=False,
        uuid="described",
        pci_bus_id=0,
        pci_device_id=0,
        pci_domain_id=0,
    )


class _NoDevice:
    """Stands for a stream, an event, a context of a device that nothing runs on."""

    device_index = 0
    device_type = 1
    stream_id = 0
    cuda_stream = 0

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.idx = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


def _stream() -> Any:
    """The default stream: of torch's own kind, which autograd insists on."""
    import torch

    try:
        return torch.Stream(stream_id=0, device_index=0, device_type=1)
    except (RuntimeError, TypeError):  # without the C++ half, on a build that knows no such device
        return _NoDevice()


class Description:
    """A device, described to this process."""

    def __init__(self, target: Target) -> None:
        """Take note; nothing is replaced yet."""
        self._target = target
        self._patches = internals.Patches()
        self._kept: list[Any] = []

    def to_torch(self) -> None:
        """Answer for the device in ``torch.cuda``, ``torch.version`` and ``torch._C``, from now on."""
        target, put = self._target, self._patches.put
        import torch

        found = properties(target)
        numbers = capability(target)
        if is_amd(target):
            put(torch.version, "hip", torch.version.hip or ROCM_VERSION)
            put(torch.version, "cuda", None)
        else:
            put(torch.version, "hip", None)
            put(torch.version, "cuda", torch.version.cuda or CUDA_VERSION)
        answers: dict[str, Any] = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "_is_compiled": lambda: True,
            "init": lambda: None,
            "_lazy_init": lambda: None,
            "_lazy_call": lambda *_a, **_k: None,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda _d: None,
            "_exchange_device": lambda _d: 0,
            "_maybe_exchange_device": lambda _d: 0,
            "get_device_properties": lambda _d=None: found,
            "get_device_capability": lambda _d=None: numbers,
            "get_device_name": lambda _d=None: found.name,
            "get_arch_list": lambda: [target.arch],
            "is_bf16_supported": lambda *_a, **_k: True,
            "is_tf32_supported": lambda: not is_amd(target),
            "synchronize": lambda _d=None: None,
            "current_stream": lambda _d=None: _stream(),
            "default_stream": lambda _d=None: _stream(),
            "set_stream": lambda _s: None,
            "_set_stream_by_id": lambda *_a, **_k: None,
            "is_current_stream_capturing": lambda: False,
            "device": _NoDevice,
            "get_rng_state": lambda *_a: torch.get_rng_state(),
            "set_rng_state": lambda *_a: None,
            "manual_seed": lambda _s: None,
            "manual_seed_all": lambda _s: None,
            "seed": lambda: None,
            "seed_all": lambda: None,
            "initial_seed": lambda: 0,
            "memory_allocated": lambda _d=None: 0,
            "max_memory_allocated": lambda _d=None: 0,
            "memory_reserved": lambda _d=None: 0,
            "max_memory_reserved": lambda _d=None: 0,
            "reset_peak_memory_stats": lambda _d=None: None,
            "mem_get_info": lambda _d=None: (target.memory_bytes, target.memory_bytes),
            "empty_cache": lambda: None,
            "ipc_collect": lambda: None,
            "clock_rate": lambda _d=None: 0,
        }
        for name, answer in answers.items():
            put(torch.cuda, name, answer)
        for name, answer in {
            "_cuda_getCurrentRawStream": lambda _d: 0,
            "_cuda_isCurrentStreamCapturing": lambda: False,
            "_cuda_exchangeDevice": lambda _d: 0,
            "_cuda_maybeExchangeDevice": lambda _d: 0,
            "_cuda_getDeviceCount": lambda: 1,
            "_cuda_getDevice": lambda: 0,
            "_cuda_setDevice": lambda _d: None,
            "_cuda_synchronize": lambda: None,
        }.items():
            put(torch._C, name, answer)
        random, memory = torch.cuda.random, torch.cuda.memory
        for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all", "seed", "seed_all"):
            put(random, name, answers[name])
        for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "mem_get_info", "empty_cache"):
            put(memory, name, answers[name])
        graphs = getattr(torch.cuda, "graphs", None)
        if graphs is not None:
            put(graphs, "is_current_stream_capturing", answers["is_current_stream_capturing"])

    def to_compiler(self) -> None:
        """Answer for the device in Dynamo, Inductor and Triton, from now on; imports them.

        Raises:
            SetupError: this torch has not got a name that is needed; says which.
        """
        put = self._patches.put
        internals.answer_device_interface(put)
        internals.no_device_guards(put)
        if not self._kept:
            self._kept.append(internals.operators_without_device())
        if internals.has_triton():
            internals.keep_triton_driver(put)
            internals.keep_triton_launcher(put)
            _use_driver(DescribedDriver(self._target))
        internals.forget_triton_answers()

    @contextlib.contextmanager
    def for_lowering(self) -> Iterator[None]:
        """Answer for the device while the context is open; everything is put back on exit."""
        self.to_torch()
        self.to_compiler()
        try:
            yield
        finally:
            self._patches.undo()
            internals.forget_triton_answers()


class DescribedDriver:
    """Triton's driver for a device that is not there: it names the target, loads binaries to read them, runs none."""

    def __init__(self, target: Target) -> None:
        from triton.backends.compiler import GPUTarget

        amd = is_amd(target)
        major, minor = capability(target)
        arch: Any = target.arch if amd else major * 10 + minor
        self._target = GPUTarget("hip" if amd else "cuda", arch, target.warp_size)
        self._capability = (major, minor)
        self.utils = SimpleNamespace(
            load_binary=self._load_binary,
            unload_module=lambda _m: None,
            get_device_properties=lambda _d=0: {
                "max_shared_mem": target.shared_bytes_per_block,
                "max_num_regs": target.registers_per_multiprocessor,
                "multiprocessor_count": target.multiprocessors,
                "warpSize": target.warp_size,
                "warp_size": target.warp_size,
                "sm_clock_rate": 0,
                "mem_clock_rate": 0,
                "mem_bus_width": 0,
            },
        )

    def launcher_cls(self, _source: Any, _metadata: Any) -> Any:
        """A launcher that launches nothing."""
        return lambda *_args, **_kwargs: None

    def _load_binary(self, name: str, binary: bytes, _shared: int, _device: int) -> tuple[int, int, int, int, int]:
        found = resources(binary, name)
        return 0, 0, found.registers, found.local_bytes // 4, 1024

    def is_active(self) -> bool:
        """Triton asks before it takes a driver."""
        return True

    def get_current_target(self) -> Any:
        """The described architecture."""
        return self._target

    def get_current_device(self) -> int:
        """There is one."""
        return 0

    def set_current_device(self, _device: int) -> None:
        """There is one."""

    def get_current_stream(self, _device: Any = None) -> int:
        """The default stream."""
        return 0

    def get_device_capability(self, _device: Any = None) -> tuple[int, int]:
        """The described compute capability."""
        return self._capability

    def get_active_torch_device(self) -> Any:
        """As torch names it."""
        import torch

        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        """torch's module for it."""
        import torch

        return torch.cuda

    def get_benchmarker(self) -> Any:
        """Nothing is measured: a caller that wants a time is an error of ours."""
        raise RuntimeError("a described device measures nothing")

    def assemble_tensormap_to_arg(self, _info: Any, args: Any) -> Any:
        """As Triton's own driver."""
        return args


def _use_driver(described: DescribedDriver) -> None:
    from triton.runtime.driver import driver

    driver.set_active(described)
    with contextlib.suppress(AttributeError):  # the default is a property over a private field
        driver._default = described
