"""Every private name of torch and Triton that shipping uses, looked up here and nowhere else.

Feature-detected over torch 2.11 to 2.15 and Triton 3.6 to 3.9; what a version does not have is answered with None or
raises ``SetupError`` that says so.

The seam for C++ kernels is ``CppCodeCache.load_async``: generated code hands it C++ and gets a loaded library back.
Torch finds a library that was built before by a hash over the compiler's whole command line, its version and the paths
of the installation, so that even a warm directory is of no use where there is no compiler. Here a library is found by
what it is made of (class, source, device, flags), and the compiler is not asked for anything.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuselab.errors import SetupError, StoreError

__all__ = [
    "AotiRunner",
    "Lowerings",
    "compiler_errors",
    "count_frames",
    "dump_structure",
    "dynamo_counts",
    "frames_here",
    "inductor_counts",
    "inductor_is_imported",
    "more_recompiles",
    "record_libraries",
    "serve_libraries",
    "triton_dumps",
]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# Built C++ kernels


def _library_key(kind: type, main: str, device: str, optimized: str | None, flags: Sequence[str]) -> str:
    parts = (kind.__name__, main, device, optimized or "", *flags)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _cpp_cache() -> Any:
    cache = getattr(_module("torch._inductor.codecache"), "CppCodeCache", None)
    if cache is None or not hasattr(cache, "load_async") or not hasattr(cache, "_load_library"):
        import torch

        raise SetupError(
            f"torch {torch.__version__} loads its C++ kernels in a way that fuselab does not know",
            hint="use a torch from 2.11 to 2.15, or a newer fuselab",
        )
    return cache


@contextlib.contextmanager
def record_libraries() -> Iterator[dict[str, Path]]:
    """Every C++ library that generated code loads meanwhile: key to path. Put back on exit."""
    cache = _cpp_cache()
    own = cache.__dict__["load_async"]
    original = own.__func__
    found: dict[str, Path] = {}

    def load_async(
        cls: Any,
        main_code: str,
        device_type: str = "cpu",
        submit_fn: Any = None,
        extra_flags: Sequence[str] = (),
        optimized_code: str | None = None,
        **more: Any,
    ) -> Any:
        load = original(cls, main_code, device_type, submit_fn, extra_flags, optimized_code, **more)
        key = _library_key(cls, main_code, device_type, optimized_code, extra_flags)

        def loaded() -> Any:
            library = load()
            path = getattr(library, "__file__", None) or getattr(library, "_name", None)
            if path:
                found[key] = Path(path)
            return library

        return loaded

    cache.load_async = classmethod(load_async)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        cache.load_async = own


_served: dict[str, Path] = {}
_serving = threading.Lock()


def serve_libraries(libraries: Mapping[str, Path]) -> None:
    """From now on, load these libraries where generated code asks for what they were built from.

    For the whole process and for good: generated code asks when it is first run. What is not among them goes torch's
    way.
    """
    with _serving:
        first = not _served
        _served.update(libraries)
        if not first or not libraries:
            return
        cache = _cpp_cache()
        original = cache.__dict__["load_async"].__func__

        def load_async(
            cls: Any,
            main_code: str,
            device_type: str = "cpu",
            submit_fn: Any = None,
            extra_flags: Sequence[str] = (),
            optimized_code: str | None = None,
            **more: Any,
        ) -> Any:
            key = _library_key(cls, main_code, device_type, optimized_code, extra_flags)
            path = _served.get(key)
            if path is None:
                return original(cls, main_code, device_type, submit_fn, extra_flags, optimized_code, **more)
            # Loaded once for each class and key, as torch does: a module is looked up by its key.
            return functools.cache(lambda: cls._load_library(str(path), key))

        cache.load_async = classmethod(load_async)  # type: ignore[arg-type]


# Counting


class Lowerings:
    """Counts the graphs that Inductor lowers and generates code for, while installed."""

    def __init__(self) -> None:
        self.count = 0
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Lowerings:
        graph = getattr(_module("torch._inductor.graph"), "GraphLowering", None)
        names = [n for n in ("compile_to_module", "codegen_with_cpp_wrapper") if hasattr(graph, n)]
        if graph is None or not names:
            raise SetupError(
                "this torch's Inductor has no GraphLowering to count", hint="use a torch from 2.11 to 2.15"
            )
        for name in names:
            original = graph.__dict__[name]
            setattr(graph, name, self._counted(original))
            self._undo.append(functools.partial(setattr, graph, name, original))
        return self

    def __exit__(self, *_error: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(graph: Any, *args: Any, **kwargs: Any) -> Any:
            if not getattr(graph, "_fuselab_counted", False):  # one entry calls the other for the C++ wrapper
                graph._fuselab_counted = True
                self.count += 1
            return original(graph, *args, **kwargs)

        return call


def dynamo_counts() -> int:
    """Graphs that Dynamo has traced in this process."""
    return int(_counters().get("stats", {}).get("unique_graphs", 0))


def inductor_counts() -> dict[str, int]:
    """Hits, misses and bypasses of the graph caches in this process, by torch's own names."""
    found = {}
    for group in ("inductor", "aot_autograd"):
        for name, value in _counters().get(group, {}).items():
            if "cache_" in name and any(word in name for word in ("hit", "miss", "bypass")):
                found[name] = int(value)
    return found


def _counters() -> Mapping[str, Mapping[str, int]]:
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return counters if counters is not None else {}


_frames = threading.local()
_frames_hook: Any = None


def count_frames() -> None:
    """Begin to count compiled frames by the thread that compiles them; does nothing the second time."""
    global _frames_hook  # noqa: PLW0603 - one hook a process: Dynamo's list of hooks is a process's, too
    with _serving:
        if _frames_hook is not None:
            return
        register = getattr(_module("torch._dynamo.convert_frame"), "register_bytecode_hook", None)
        if register is None:
            raise SetupError("this torch's Dynamo does not say what it compiles", hint="use a torch from 2.11 to 2.15")

        def compiled(_old: Any, _new: Any) -> None:
            _frames.count = getattr(_frames, "count", 0) + 1

        _frames_hook = register(compiled)


def frames_here() -> int:
    """Frames that Dynamo has compiled in this thread since ``count_frames``."""
    return int(getattr(_frames, "count", 0))


@contextlib.contextmanager
def more_recompiles(wanted: int) -> Iterator[None]:
    """Let one function be compiled for ``wanted`` more shapes than Dynamo's limit allows: 8 unless set."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:  # nothing is compiled in this process, and importing Dynamo costs a second
        yield
        return
    config = dynamo.config
    changes = {}
    for name in ("recompile_limit", "accumulated_recompile_limit"):
        if isinstance(limit := getattr(config, name, None), int):
            changes[name] = limit + wanted
    patch: Any = config.patch
    with patch(**changes):
        yield


@functools.cache
def compiler_errors() -> tuple[type[Exception], ...]:
    """What a compilation that fails raises: Dynamo's, Inductor's and Triton's own classes."""
    found: list[type[Exception]] = []
    for module, names in (
        ("torch._dynamo.exc", ("TorchDynamoException", "BackendCompilerFailed", "FailOnRecompileLimitHit")),
        (
            "torch._inductor.exc",
            ("InductorError", "OperatorIssue", "InvalidCxxCompiler", "CppCompileError", "CppWrapperCodegenError"),
        ),
        ("triton.compiler.errors", ("CompilationError",)),
        ("triton.errors", ("TritonError",)),
    ):
        for name in names:
            kind = getattr(_module(module), name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                found.append(kind)
    return tuple(dict.fromkeys(found))


def triton_dumps(directory: Path) -> int:
    """Triton kernels below a dump directory (``TRITON_KERNEL_DUMP``): each was really compiled, in whatever process."""
    return len(list(directory.glob("*/*.ttir")))


def inductor_is_imported() -> bool:
    """Whether this process holds Inductor's lowering."""
    return "torch._inductor.graph" in sys.modules


# AOTInductor


def dump_structure(value: Any) -> tuple[list[Any], str]:
    """The leaves of a value and its structure as text that ``load`` reads back."""
    from torch.utils import _pytree as pytree

    leaves, structure = pytree.tree_flatten(value)
    return leaves, pytree.treespec_dumps(structure)


class AotiRunner:
    """A loaded AOTInductor package, called with flat tensors.

    torch's own ``aoti_load_package`` imports Inductor first, a second or more, and asks for a compiler; the loader
    below it needs neither.
    """

    def __init__(self, path: Path, structure: str, device_index: int = -1) -> None:
        import torch
        from torch.utils import _pytree as pytree

        loader = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
        if loader is None:
            raise SetupError("this torch has no AOTInductor loader", hint="use a torch from 2.11 to 2.15")
        try:
            self._loader = loader(str(path), "model", False, 1, device_index)
            self._structure = pytree.treespec_loads(structure)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise StoreError(f"the AOTInductor package cannot be loaded: {error}", hint="pack again") from error
        self._unflatten = pytree.tree_unflatten

    def constants(self) -> dict[str, str]:
        """Names of the constants inside, as the loader has them."""
        return {str(name): str(name) for name in self._loader.get_constant_fqns()}

    def load_constants(self, values: Mapping[str, Any]) -> None:
        """Use these tensors, not copies, in place of the packed ones; names are the loader's, all have to be there."""
        self._loader.load_constants(dict(values), False, True, True)

    def __call__(self, tensors: Sequence[Any]) -> Any:
        """The outputs, put together as the model puts them."""
        return self._unflatten(self._loader.boxed_run(list(tensors)), self._structure)
