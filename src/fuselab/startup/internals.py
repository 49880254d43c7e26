"""Every private name of torch and Triton that measuring a start uses, looked up here and nowhere else.

Each is feature-detected: where a version has it no more, the events or lookups that it stood for are missing, the
time shows up as not attributed, and ``missing`` names it. Written against torch 2.11 to 2.15, Triton 3.6 and 3.7,
CPython 3.11 to 3.13. All hooks are put in place in a process of its own that ends with the measurement; they chain and
are never taken out.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fuselab.startup.records import CacheName
from fuselab.startup.timeline import PAUSE, Mark

__all__ = [
    "Observed",
    "Observer",
    "bounds_of_axis",
    "build_package",
    "launched_kernels",
    "load_package",
    "mode_options",
    "recompile_limit",
    "take_compilations",
]


_LIMIT_WORDS = "torch._dynamo hit config"
"""Start of what Dynamo's log says when a limit on recompilations is reached."""


class Observed:
    """One question to a cache, as the compiler answered it."""

    def __init__(self, cache: CacheName, state: str, key: str, reason: str, components: list[str]) -> None:
        self.cache = cache
        self.state = state
        self.key = key
        self.reason = reason
        self.components = components


class Observer:
    """Watches this process compile: events with their times, questions to caches, compilation metrics."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        """Beginnings and ends of events."""
        self.lookups: list[Observed] = []
        """Questions to the caches that live in Python; libraries and kernels are seen by their files."""
        self.missing: list[str] = []
        """Names that this version does not have."""
        self.gave_up: list[str] = []
        """What Dynamo said when it gave up compiling a function again."""
        self._aot_components: dict[str, list[str]] = {}
        self._restore_launches: Callable[[], None] = _nothing

    # --- events -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def event(self, name: str, *, since_ns: int | None = None) -> Iterator[None]:
        """An event of our own, that may have begun before anything could watch it."""
        self.marks.append(Mark(threading.get_ident(), since_ns or time.monotonic_ns(), name, True))
        try:
            yield
        finally:
            self._mark(name, begin=False)

    def _mark(self, name: str, *, begin: bool) -> None:
        self.marks.append(Mark(threading.get_ident(), time.monotonic_ns(), name, begin))

    def watch_imports(self) -> None:
        """Every import that executes a module, wherever it happens: the first compilation imports for a second.

        ``import`` looks ``_find_and_load`` up in importlib's module, and only for modules that are not there yet.
        """
        bootstrap = sys.modules.get("_frozen_importlib")
        find_and_load = getattr(bootstrap, "_find_and_load", None)
        if bootstrap is None or find_and_load is None:
            self.missing.append("importlib._bootstrap._find_and_load")
            return

        def timed(name: str, import_: Any) -> Any:
            with self.event("import"):
                return find_and_load(name, import_)

        bootstrap._find_and_load = timed  # type: ignore[attr-defined]

    def watch_compiler(self) -> None:
        """The compiler's own events, its caches and its compiled code; imports the compiler."""
        _module("torch._dynamo.utils")
        self.watch_events()
        self._watch_launches(_attribute("torch._inductor.output_code", "CompiledFxGraph"))
        self._watch_limit()
        self._watch_keys()
        self._watch_fx_lookups(_attribute("torch._inductor.codecache", "FxGraphCache"))
        self._watch_autotune(
            _attribute("torch._inductor.runtime.autotune_cache", "AutotuneCache"),
            _attribute("torch._inductor.codecache", "PersistentCache"),
        )

    def watch_events(self) -> None:
        """The compiler's own events, if its module is imported already."""
        logger: Any = getattr(sys.modules.get("torch._dynamo.utils"), "ChromiumEventLogger", None)
        start, end = getattr(logger, "log_event_start", None), getattr(logger, "log_event_end", None)
        instant = getattr(logger, "log_instant_event", None)
        if start is None or end is None or instant is None:
            self.missing.append("torch._dynamo.utils.ChromiumEventLogger")
            return

        def log_event_start(log: Any, event_name: str, *args: Any, **kwargs: Any) -> Any:
            self._mark(event_name, begin=True)
            return start(log, event_name, *args, **kwargs)

        def log_event_end(log: Any, event_name: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return end(log, event_name, *args, **kwargs)
            finally:
                self._mark(event_name, begin=False)

        def log_instant_event(log: Any, event_name: str, *args: Any, **kwargs: Any) -> Any:
            metadata = kwargs.get("metadata", args[1] if len(args) > 1 else None)
            self._instant(event_name, metadata or {})
            return instant(log, event_name, *args, **kwargs)

        logger.log_event_start, logger.log_event_end = log_event_start, log_event_end
        logger.log_instant_event = log_instant_event

    def _instant(self, name: str, metadata: Mapping[str, Any]) -> None:
        """AOTAutograd's lookups, and the bypasses of both caches, are told by instant events only."""
        cache, _, state = name.partition("_cache_")
        if cache == "autograd" and state in ("hit", "miss", "bypass"):
            key = str(metadata.get("key") or "")
            components = list(metadata.get("components") or []) or self._aot_components.get(key, [])
            reason = str(metadata.get("cache_bypass_reason") or metadata.get("cache_status_detailed") or "")
            self.lookups.append(Observed(CacheName.AOT_AUTOGRAD, state, key, reason, components))
        elif cache == "fx_graph" and state in ("bypass", "disabled"):
            reason = str(metadata.get("cache_bypass_reason") or state)
            self.lookups.append(Observed(CacheName.FX_GRAPH, "bypass", "", reason, []))

    def _watch_launches(self, compiled: Any) -> None:
        """Compiled graphs as they run: the time of the first is the first launch."""
        if compiled is None:
            self.missing.append("torch._inductor.output_code.CompiledFxGraph")
            return
        call = compiled.__call__

        def run(graph: Any, *args: Any, **kwargs: Any) -> Any:
            with self.event("CompiledFxGraph.__call__"):
                return call(graph, *args, **kwargs)

        compiled.__call__ = run

        def restore() -> None:
            compiled.__call__ = call

        self._restore_launches = restore

    def unwatch_launches(self) -> None:
        """Let compiled graphs run without our event around them: a microsecond counts in a steady state."""
        self._restore_launches()
        self._restore_launches = _nothing

    def _watch_limit(self) -> None:
        """Dynamo giving up on a function that it compiled too often; it says so in its log and goes on in eager."""
        module = _module("torch._dynamo.convert_frame")
        logger = getattr(module, "log", None)
        if not isinstance(logger, logging.Logger):
            self.missing.append("torch._dynamo.convert_frame.log")
            return
        gave_up = self.gave_up

        class Limit(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if _LIMIT_WORDS in str(record.msg):
                    said = record.getMessage().strip().splitlines()
                    gave_up.append(" ".join(" ".join(said[:3]).split()))

        logger.addHandler(Limit(logging.WARNING))

    # --- caches -------------------------------------------------------------------------------------------------

    def _watch_keys(self) -> None:
        """Hashing of keys as events; the components of AOTAutograd's, which newer versions leave out."""
        self._timed("torch._inductor.codecache", "compiled_fx_graph_hash")
        self._timed("torch._functorch._aot_autograd.autograd_cache", "autograd_cache_key")
        module = _module("torch._functorch._aot_autograd.autograd_cache")
        explain = getattr(module, "_get_debug_lines_for_cache_key", None)
        if explain is None:
            return  # the version computes them always

        def explained(pickler: Any, details: Any, key: str) -> Any:
            # The clock stands still: this is asked for by the report, not by the start.
            with self.event(PAUSE):
                self._aot_components[key] = list(pickler.debug_lines(details))
            return explain(pickler, details, key)

        module._get_debug_lines_for_cache_key = explained

    def _timed(self, module_name: str, name: str) -> None:
        module = _module(module_name)
        function = getattr(module, name, None)
        if function is None:
            self.missing.append(f"{module_name}.{name}")
            return

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.event(name):
                return function(*args, **kwargs)

        setattr(module, name, timed)

    def _watch_fx_lookups(self, cache: Any) -> None:
        """Every lookup of a graph: by Inductor itself, and by AOTAutograd's cache on its way to a hit."""
        load = getattr(cache, "load_with_key", None)
        if load is None:
            self.missing.append("torch._inductor.codecache.FxGraphCache.load_with_key")
            return

        def load_with_key(*args: Any, **kwargs: Any) -> Any:
            with self.event("FxGraphCache.load_with_key"):
                graph, info = load(*args, **kwargs)
            self.lookups.append(
                Observed(
                    CacheName.FX_GRAPH,
                    str(info.get("cache_state") or ("hit" if graph is not None else "miss")),
                    str(info.get("key") or ""),
                    str(info.get("cache_status_detailed") or ""),
                    [str(line) for line in info.get("components") or []],
                )
            )
            return graph, info

        cache.load_with_key = staticmethod(load_with_key)

    def _watch_autotune(self, launches: Any, templates: Any) -> None:
        """Chosen configurations of Triton kernels, and measured candidates of matrix products."""
        read = getattr(launches, "read_best", None)
        if read is not None:

            def read_best(cache: Any, *args: Any, **kwargs: Any) -> Any:
                best = read(cache, *args, **kwargs)
                self.lookups.append(Observed(CacheName.AUTOTUNE, "miss" if best is None else "hit", "", "", []))
                return best

            launches.read_best = read_best
        lookup = getattr(templates, "lookup", None)
        if lookup is None:
            self.missing.append("torch._inductor.codecache.PersistentCache.lookup")
            return

        def counted(cache: Any, choices: Any, op: str, inputs: str, benchmark: Any, *args: Any, **kwargs: Any) -> Any:
            measured = False

            def measuring(*of: Any, **with_: Any) -> Any:
                nonlocal measured
                measured = True
                return benchmark(*of, **with_)

            timings = lookup(cache, choices, op, inputs, benchmark and measuring, *args, **kwargs)
            if benchmark is not None:
                self.lookups.append(Observed(CacheName.AUTOTUNE, "miss" if measured else "hit", op, "", []))
            return timings

        templates.lookup = counted


def launched_kernels() -> frozenset[str]:
    """Hashes of the Triton kernels that this process's compiled code launches, as Triton's cache names them."""
    cache = getattr(sys.modules.get("torch._inductor.codecache"), "PyCodeCache", None)
    modules = [*getattr(cache, "modules", ()), *getattr(cache, "modules_no_attr", {}).values()]
    launchers = [
        launcher
        for module in modules
        for value in list(vars(module).values())
        if isinstance(getattr(value, "launchers", None), list)
        for launcher in value.launchers
    ]
    return frozenset(str(h) for h in (getattr(launcher, "cache_hash", None) for launcher in launchers) if h)


# --- compilations ---------------------------------------------------------------------------------------------------


def take_compilations() -> list[Mapping[str, Any]]:
    """Metrics of the frames that Dynamo compiled since this was last asked; it keeps the last 64."""
    utils = sys.modules.get("torch._dynamo.utils")
    get, clear = getattr(utils, "get_compilation_metrics", None), getattr(utils, "clear_compilation_metrics", None)
    if get is None or clear is None:
        return []
    taken: list[Mapping[str, Any]] = [
        dict(vars(metrics)) if hasattr(metrics, "__dict__") else _slots(metrics) for metrics in get()
    ]
    clear()
    # The attempt at which Dynamo gives up on a function has metrics too, without the function's name.
    return [metrics for metrics in taken if metrics.get("co_name")]


def _slots(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in getattr(type(value), "__slots__", ())}


def recompile_limit() -> int:
    """Graphs that Dynamo keeps of one function before it gives up on compiling it."""
    config = _module("torch._dynamo.config")
    for name in ("recompile_limit", "cache_size_limit"):  # the newer name first
        if hasattr(config, name):
            return int(getattr(config, name))
    return 8


def bounds_of_axis(tensor: Any, axis: int, low: int, high: int) -> None:
    """Tell Dynamo that an axis is dynamic within bounds."""
    import torch

    torch._dynamo.mark_dynamic(tensor, axis, min=low, max=high)


# --- AOTInductor ----------------------------------------------------------------------------------------------------


def build_package(exported: Any, path: str, options: Mapping[str, Any]) -> None:
    """Compile an exported program into a package, which records no CUDA graphs whatever the mode."""
    import torch._inductor

    settings = {name: value for name, value in options.items() if name != "triton.cudagraphs"}
    torch._inductor.aoti_compile_and_package(exported, package_path=path, inductor_configs=settings)


def load_package(path: str) -> Any:
    """A package as something to call."""
    import torch._inductor

    return torch._inductor.aoti_load_package(path)


def mode_options(mode: str) -> dict[str, Any]:
    """Inductor's settings behind a mode of ``torch.compile``."""
    import torch._inductor

    return {} if mode == "default" else dict(torch._inductor.list_mode_options(mode))


def _nothing() -> None:
    """What there is to restore before anything was changed."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _attribute(module: str, name: str) -> Any:
    return getattr(_module(module), name, None)
