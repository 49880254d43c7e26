"""Every private name of torch that generating code for a described device needs, looked up here and nowhere else.

All of it is for a process of its own. A name without which the job cannot be done and
that this torch has not got raises ``SetupError`` with the name; one that merely was there in some version is skipped.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fuselab.errors import SetupError

__all__ = [
    "Patches",
    "answer_device_interface",
    "compile_fx",
    "fake_mode",
    "flops",
    "forget_triton_answers",
    "has_triton",
    "is_fake",
    "keep_triton_driver",
    "keep_triton_launcher",
    "launch_without_storage",
    "modules_load_without_triton",
    "needed",
    "no_device_guards",
    "nothing_is_benchmarked",
    "operators_without_device",
    "output_nodes",
    "plain",
    "settings",
    "watch_kernels",
]


Put = Callable[[Any, str, Any], None]


class Patches:
    """Attributes that were replaced, and what they were."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, holder: Any, name: str, value: Any) -> None:
        """Replace an attribute, which need not exist."""
        self._before.append((holder, name, vars(holder).get(name, _ABSENT)))
        setattr(holder, name, value)

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._before:
            holder, name, value = self._before.pop()
            if value is _ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, value)


_ABSENT = object()


def needed(module: str, *names: str) -> Any:
    """The object ``module.name.name...``.

    Raises:
        SetupError: this torch has no such module or name.
    """
    import torch

    try:
        found: Any = importlib.import_module(module)
        path = module
        for name in names:
            path = f"{path}.{name}"
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise SetupError(
            f"torch {torch.__version__} has no {'.'.join([module, *names])}, which describing a device needs",
            hint="use a torch that fuselab was tried with (2.11 to 2.15), or report this name",
        ) from error
    return found


def optional(module: str, name: str) -> Any:
    """The object ``module.name``; None where this torch has none."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed and can be imported here."""
    try:
        importlib.import_module("triton")
    except ImportError:
        return False
    return True


def fake_mode() -> Any:
    """A mode in which tensors have a shape and a device and no storage."""
    mode = needed("torch._subclasses.fake_tensor", "FakeTensorMode")
    return mode(allow_non_fake_inputs=True)


def is_fake(tensor: Any) -> bool:
    """Whether a tensor has no storage behind it."""
    return isinstance(tensor, needed("torch._subclasses.fake_tensor", "FakeTensor"))


def answer_device_interface(put: Put) -> None:
    """Dynamo's view of CUDA devices, which holds functions of ``torch.cuda`` by reference from its import on."""
    import torch

    interface = needed("torch._dynamo.device_interface", "CudaInterface")
    worker = needed("torch._dynamo.device_interface", "CudaInterface", "Worker")
    for name in (
        "current_device",
        "set_device",
        "device_count",
        "synchronize",
        "get_device_properties",
        "current_stream",
        "is_bf16_supported",
        "memory_allocated",
    ):
        if hasattr(interface, name):
            put(interface, name, staticmethod(getattr(torch.cuda, name)))
    for name, answer in {
        "exchange_device": lambda _d: 0,
        "maybe_exchange_device": lambda _d: 0,
        "get_raw_stream": lambda _d: 0,
        "is_available": lambda: True,
    }.items():
        put(interface, name, staticmethod(answer))  # type: ignore[arg-type]
    put(worker, "current_device", staticmethod(lambda: 0))
    put(worker, "get_device_properties", staticmethod(lambda d=None: torch.cuda.get_device_properties(d)))


def no_device_guards(put: Put) -> None:
    """Nothing is to touch a device: the fake tensors' context, the driver's own questions."""
    fake = importlib.import_module("torch._subclasses.fake_tensor")
    if hasattr(fake, "init_gpu_context"):
        put(fake, "init_gpu_context", lambda *_a, **_k: None)
    # torch.tensor(2.0, device="cuda") moves the number to the device before a fake tensor mode sees it, unless told so.
    needed("torch._C", "_set_only_lift_cpu_tensors")(True)
    mode = needed("torch._subclasses.fake_tensor", "FakeTensorMode")
    # What torch answers itself where it finds no device.
    put(mode, "avoid_device_init", property(lambda _self: True))


def forget_triton_answers() -> None:
    """torch remembers what it once found out about Triton and the device."""
    for module in ("torch.utils._triton", "torch._inductor.utils", "torch._inductor.runtime.hints"):
        try:
            held = vars(importlib.import_module(module))
        except ImportError:
            continue
        for value in list(held.values()):
            if callable(value) and hasattr(value, "cache_clear") and getattr(value, "__module__", "") == module:
                value.cache_clear()


DECOMPOSED_WITHOUT_CUDA = ("_fused_rms_norm", "silu_backward", "mish_backward")
"""Operators that have a kernel for CUDA and are decomposed where there is none: a CPU build would decompose them."""


def operators_without_device() -> Any:
    """CUDA kernels for what has to have one; what is returned has to be kept.

    An operator that is decomposed where it has no CUDA kernel gets one that refuses to run. A tensor that is created on
    the device outside of a fake tensor mode is created on the CPU: constant folding evaluates such graphs, and asks for
    the values only.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")

    def runs_nothing(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("a described device runs nothing")

    def empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_options: Any) -> Any:
        return torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format or torch.contiguous_format)

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_options: Any) -> Any:
        return torch.empty_strided(size, stride, dtype=dtype, device="cpu")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a CUDA build has kernels of its own, which need the driver
        library.impl("empty.memory_format", empty, "CUDA")
        library.impl("empty_strided", empty_strided, "CUDA")
    for name in DECOMPOSED_WITHOUT_CUDA:
        if hasattr(torch.ops.aten, name) and not torch._C._dispatch_has_kernel_for_dispatch_key(
            f"aten::{name}", "CUDA"
        ):
            library.impl(name, runs_nothing, "CUDA")
    return library


def keep_triton_driver(put: Put) -> None:
    """Generated modules select the driver of the device at hand when they are loaded; the described one is to stay."""
    helpers = importlib.import_module("torch._inductor.runtime.triton_helpers")
    for name in ("set_driver_to_gpu", "set_driver_to_cpu"):
        if hasattr(helpers, name):
            put(helpers, name, lambda: None)


def keep_triton_launcher(put: Put) -> None:
    """torch's own launcher loads a binary on the device; Triton's goes through the described driver."""
    for name in ("StaticTritonCompileResult", "StaticCudaCompileResult"):
        result = optional("torch._inductor.runtime.triton_heuristics", name)
        if result is not None and hasattr(result, "can_statically_launch"):
            put(result, "can_statically_launch", staticmethod(lambda *_a, **_k: None))


def compile_fx() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Inductor's backend, and the part of it that lowers one graph."""
    return needed("torch._inductor.compile_fx", "compile_fx"), needed("torch._inductor.compile_fx", "compile_fx_inner")


def settings(changes: dict[str, Any]) -> None:
    """Set Inductor's settings for the rest of this process; one that this torch has not got is skipped."""
    config = importlib.import_module("torch._inductor.config")
    for name, value in changes.items():
        holder: Any = config
        *path, last = name.split(".")
        for part in path:
            holder = getattr(holder, part, None)
        if holder is not None and hasattr(holder, last):
            setattr(holder, last, value)


def nothing_is_benchmarked(say: Callable[[str], None], choice: Callable[[str, str, list[str]], None]) -> None:
    """Where Inductor would run candidates on the device to choose: take what it takes without a measurement.

    Args:
        say: called with what was left open, once for each place.
        choice: called with an operator, what is shown for it, and everything that Inductor would time.
    """
    _first_library_call(choice)
    pad: Any = importlib.import_module("torch._inductor.fx_passes.pad_mm")
    if hasattr(pad, "get_cached_should_pad"):  # asked where a measurement is due, and nowhere else

        def not_padded(_key: str) -> bool:
            say("whether padding a matrix product pays is measured on the device; shown without padding")
            return False

        pad.get_cached_should_pad = not_padded


def _first_library_call(choice: Callable[[str, str, list[str]], None]) -> None:
    """Of library calls and templates, the first library call: what Inductor falls back to where nothing was timed."""
    selector = optional("torch._inductor.select_algorithm", "AlgorithmSelectorCache")
    library = optional("torch._inductor.select_algorithm", "ExternKernelCaller")
    if selector is None or library is None:
        return
    original = selector.__call__

    def words(candidate: Any) -> str:
        details = str(getattr(candidate, "description", "") or "")
        return f"{getattr(candidate, 'name', type(candidate).__name__)}{': ' if details else ''}{details}"

    def call(self: Any, name: str, choices: list[Any], *args: Any, **settings: Any) -> Any:
        if len(choices) > 1:
            first = next((c for c in choices if isinstance(c, library)), choices[0])
            choice(str(name), words(first), [words(c) for c in choices])
            choices = [first]
        return original(self, name, choices, *args, **settings)

    selector.__call__ = call


def watch_kernels(failed: Callable[[str, Exception], None], compiled: Callable[[str, Any], None]) -> None:
    """Let a kernel that does not compile fail alone, and look at those that do.

    Args:
        failed: called with the kernel's name and the error; the kernel then has no launcher, its graph stands.
        compiled: called with the kernel's name and its autotuner, all configurations compiled and none chosen.
    """
    autotuner = needed("torch._inductor.runtime.triton_heuristics", "CachingAutotuner")
    original = needed("torch._inductor.runtime.triton_heuristics", "CachingAutotuner", "precompile")

    def precompile(self: Any, *args: Any, **kwargs: Any) -> None:
        name = str(self.inductor_meta.get("kernel_name") or getattr(self.fn, "__name__", "kernel"))
        try:
            original(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises: the other kernels stand
            failed(name, error)
            return
        compiled(name, self)

    autotuner.precompile = precompile


def launch_without_storage() -> None:
    """Triton asks a tensor for its address to see whether it is aligned: one without storage is."""
    fake = needed("torch._subclasses.fake_tensor", "FakeTensor")
    fake.data_ptr = lambda _self: 0


def modules_load_without_triton() -> None:
    """Where there is no Triton: Inductor generates its kernels all the same, and the generated module is not run."""
    for module in ("torch._inductor.scheduler", "torch._inductor.utils", "torch._inductor.codegen.triton"):
        holder = importlib.import_module(module)
        if hasattr(holder, "has_triton"):  # not torch.utils' own: Dynamo would import what is not there
            setattr(holder, "has_triton", lambda *_a, **_k: True)  # noqa: B010 - a module has no such field
    utils: Any = importlib.import_module("torch.utils._triton")
    utils.triton_hash_with_backend = lambda: "no triton"
    cache = needed("torch._inductor.codecache", "PyCodeCache")

    def load(_key: str, path: str, *_args: Any, **_kwargs: Any) -> Any:
        return SimpleNamespace(
            __file__=path,
            call=lambda arguments: arguments,
            runner=None,
            recursively_apply_fns=None,
            benchmark_compiled_module=None,
        )

    cache.load_by_key_path = staticmethod(load)


def output_nodes(graph_module: Any) -> tuple[list[Any], list[Any]]:
    """Placeholders and outputs of a graph, as nodes and constants."""
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in graph_module.graph.nodes if node.op == "output"]
    found = output.args[0]
    return placeholders, list(found) if isinstance(found, list | tuple) else [found]


def plain(value: Any) -> Any:
    """An integer for a symbolic one, by its hint."""
    node = getattr(value, "node", None)
    return getattr(node, "hint", value) if node is not None else value


def flops(node: Any) -> int | None:
    """Floating-point operations of a graph node, from torch's own formulas; None where it has none."""
    registry = optional("torch.utils.flop_counter", "flop_registry") or {}
    packet = getattr(node.target, "overloadpacket", None)
    formula = registry.get(packet)
    if formula is None:
        return None
    from torch.utils import _pytree as pytree

    args, kwargs = pytree.tree_map(
        lambda value: value.meta.get("val") if hasattr(value, "meta") else value, (node.args, dict(node.kwargs))
    )
    return int(formula(*args, **kwargs, out_val=node.meta.get("val")))
