"""The process that a probe starts: looks at what one group of variables did to it and says so on stdout.

``python -m fuselab.env_vars.probe_child GROUP DIRECTORY REQUEST``; everything it writes lies below the directory.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fuselab.env_vars.probes import MARK

TARGET = ("cuda", 90, 32)
"""Kernels are compiled for a described H100: that needs no GPU."""


def fields(_into: Path, request: Mapping[str, Any]) -> dict[str, str]:
    """What configuration fields hold."""
    seen = {}
    for name, path in request["fields"].items():
        try:
            seen[name] = repr(_resolve(path))
        except (ImportError, AttributeError, RuntimeError) as error:
            seen[f"{name}!"] = f"{type(error).__name__}: {error}"
    return seen


def _resolve(path: str) -> Any:
    """A field by its dotted path: the longest part that is a module, then attributes."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


def threads(_into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """CPU libraries: threads, instructions, what they print."""
    import torch

    x = torch.ones(64, 64)
    torch.mm(x, x)
    torch.nn.functional.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))
    return {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "ATEN_CPU_CAPABILITY": torch.backends.cpu.get_cpu_capability(),
    }


def of_torch(_into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """What torch itself does otherwise."""
    import torch
    import torch.distributed
    import torch.fx.experimental.proxy_tensor
    from torch.utils import cpp_extension

    def plus_one(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    try:
        torch.ones(2).view(3)
        text = ""
    except RuntimeError as error:
        text = str(error)
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: x + 1, tracing_mode="fake")(torch.ones(2, 3))
    printed = traced.print_readable(print_output=False)
    seen = {
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": torch.get_float32_matmul_precision(),
        "PYTORCH_JIT": type(_scripted(plus_one)).__name__,
        "TORCH_HOME": torch.hub.get_dir(),
        "TORCH_SHOW_CPP_STACKTRACES": text,
        "TORCH_EXTENSIONS_DIR": cpp_extension._get_build_directory("ours", verbose=False),
        "FX_GRAPH_SHOW_STRIDE": printed,
        "FX_GRAPH_SHOW_DEVICE": printed,
    }
    if torch.distributed.is_available():
        from torch.distributed.distributed_c10d import get_debug_level  # type: ignore[attr-defined]

        seen["TORCH_DISTRIBUTED_DEBUG"] = str(get_debug_level())
    else:
        seen["TORCH_DISTRIBUTED_DEBUG!"] = "this torch has no torch.distributed"
    return seen


def _scripted(_function: Callable[..., Any]) -> Any:
    import torch

    return torch.jit.script(torch.nn.functional.silu)


def dynamo(_into: Path, request: Mapping[str, Any]) -> dict[str, str]:
    """How many graphs a compile captures, step by step."""
    import torch

    def captured() -> str:
        torch._dynamo.reset()
        graphs = []

        def backend(graph: Any, _inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        def ours(x: Any) -> Any:
            return x * 2 + 1

        torch.compile(ours, backend=backend)(torch.ones(3))
        return str(len(graphs))

    return _steps(request, lambda _name: captured())


def logs(_into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """Compile something; what was logged is seen from outside."""
    import torch

    torch.compile(lambda x: x * 2 + 1, backend="eager")(torch.ones(3))
    return {}


def inductor(_into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """Generated code of one small function on the CPU."""
    import torch
    from torch._inductor.utils import run_and_get_code

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(x) * y + 1

    _, codes = run_and_get_code(torch.compile(function), torch.ones(64, 64), torch.ones(64, 64))
    code = "\n".join(codes)
    names = ("TORCHINDUCTOR_SIZE_ASSERTS", "TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE", "TORCHINDUCTOR_VEC_ISA_OK")
    return dict.fromkeys(names, code)


def interpret(_into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """What triton.jit makes of a function."""
    try:
        import triton
    except ImportError as error:  # the interpreter needs NumPy
        return {"TRITON_INTERPRET!": str(error)}

    @triton.jit
    def nothing() -> None:
        pass

    return {"TRITON_INTERPRET": type(nothing).__name__}


def assembler(into: Path, _request: Mapping[str, Any]) -> dict[str, str]:
    """How a compile ends."""
    from fuselab.env_vars import probe_kernels

    os.environ["TRITON_CACHE_DIR"] = str(into / "cache")
    return {"PTXAS_OPTIONS": _evidence("PTXAS_OPTIONS", probe_kernels, into / "cache", into)}


def of_triton(into: Path, request: Mapping[str, Any]) -> dict[str, str]:
    """One compile for a described GPU in each step, without the variable and with it."""
    from fuselab.env_vars import probe_kernels

    count = iter(range(10_000))

    def compiled(name: str) -> str:
        cache = into / f"cache{next(count)}"
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache))
        if name == "TRITON_HOME":
            del os.environ["TRITON_CACHE_DIR"]
        if name in os.environ:
            cache = {"TRITON_CACHE_DIR": into / "elsewhere", "TRITON_HOME": into / "home"}.get(name, cache)
        try:
            return _evidence(name, probe_kernels, cache, into)
        finally:
            os.environ.pop("TRITON_CACHE_DIR", None)

    return _steps(request, compiled)


def _evidence(name: str, kernels: Any, cache: Path, into: Path) -> str:
    """What is looked at for one of Triton's variables."""
    kernel = {
        "TRITON_F32_DEFAULT": kernels.product,
        "DISABLE_MMA_V3": kernels.product,
        "TRITON_ALLOW_NON_CONSTEXPR_GLOBALS": kernels.global_reader,
    }.get(name, kernels.scaled_sum)
    with _streams() as streams:
        try:
            made = kernels.compiled(kernel, TARGET)
            ending = "compiled"
        except Exception as error:  # noqa: BLE001 - how it ends is the evidence
            cause = error.__cause__ or error
            made, ending = None, type(cause if isinstance(cause, NameError) else error).__name__
    printed = streams[0]
    if name in ("TRITON_ALLOW_NON_CONSTEXPR_GLOBALS", "PTXAS_OPTIONS"):
        return ending
    if made is None:
        raise RuntimeError(f"the kernel does not compile: {ending}")
    if name == "TRITON_ALWAYS_COMPILE":
        before = _times(cache)
        kernels.compiled(kernel, TARGET)
        return "no" if before == _times(cache) else "yes"
    looks: dict[str, Callable[[], str]] = {
        "TRITON_KERNEL_DUMP": lambda: _listing(into / "dump"),
        "TRITON_F32_DEFAULT": lambda: made.asm["ttir"],
        "DISABLE_LLVM_OPT": lambda: str(made.asm["llir"].count("\n")),
        "DISABLE_PTXAS_OPT": lambda: str(len(made.asm["cubin"])),
        "MLIR_DUMP_PATH": lambda: _text(into / "passes.mlir"),
        "TRITON_REPRODUCER_PATH": lambda: "\n".join(p.name for p in into.iterdir() if "mlir" in p.name) or "no file",
    }
    if name in looks:
        return looks[name]()
    if name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        return _listing(into / {"TRITON_CACHE_DIR": "elsewhere", "TRITON_HOME": "home/.triton/cache"}[name])
    if name == "TRITON_STORE_BINARY_ONLY":
        return _listing(cache)
    in_ptx = ("TRITON_DISABLE_LINE_INFO", "TRITON_DEFAULT_FP_FUSION", "TRITON_MOCK_PTX_VERSION", "DISABLE_MMA_V3")
    return str(made.asm["ptx"]) if name in in_ptx else printed


def _steps(request: Mapping[str, Any], look: Callable[[str], str]) -> dict[str, str]:
    """Each variable's evidence without it and with it."""
    into = sys.argv[2]
    seen = {}
    for name, step in request["steps"].items():
        for half, settings in (("without", step["along"]), ("with", {**step["along"], name: step["value"]})):
            before = dict(os.environ)
            os.environ.update({key: value.replace("{into}", into) for key, value in settings.items()})
            try:
                seen[f"{name}/{half}"] = look(name)
            except RuntimeError as error:
                seen[f"{name}!/{half}"] = str(error)
            finally:
                for key in set(os.environ) - set(before):
                    del os.environ[key]
                os.environ.update(before)
    return seen


@contextlib.contextmanager
def _streams() -> Iterator[list[str]]:
    """What C++ and children write to stdout and stderr meanwhile."""
    caught: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield caught
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, number)
                os.close(saved)
            file.seek(0)
            caught.append(file.read().decode(errors="replace"))


def _listing(directory: Path) -> str:
    return "\n".join(sorted(path.name for path in directory.rglob("*") if path.is_file())) or "no file"


def _times(directory: Path) -> list[int]:
    return sorted(path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file())


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else "no file"


GROUPS: dict[str, Callable[[Path, Mapping[str, Any]], dict[str, str]]] = {
    **{"fields": fields, "threads": threads, "torch": of_torch, "dynamo": dynamo, "logs": logs},
    **{"inductor": inductor, "interpret": interpret, "triton": of_triton, "assembler": assembler},
}


def main(arguments: list[str]) -> None:
    """Look at one group and print the evidence as one line."""
    group, into, request = arguments
    seen = GROUPS[group](Path(into), msgspec.json.decode(request))
    sys.stdout.write(f"\n{MARK}{msgspec.json.encode(seen).decode()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
