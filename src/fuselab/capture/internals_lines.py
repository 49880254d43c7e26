"""Private names of Inductor's code generators, used to record which graph node each line of a kernel is written for.

Like ``internals``, the only place for these names; each is feature-detected, and what a version lacks is not recorded.

Inductor keeps provenance by kernel: a fused kernel comes from a set of nodes. Line by line it is lost where a node's
lowering becomes a closure (``Loops.inner_fn``) that other closures call. The recorder follows it through:

1. Lowering: every loop nest remembers the node that was being lowered when it was made; its closure says so while it
   runs.
2. Tracing: when the closures are traced to a loop body, each operation of the body takes the node of the innermost
   closure that runs.
3. Code generation: each line that is written while an operation of a loop body is interpreted takes that operation's
   node. Lines are strings; the recorder's lines are strings that know their node, and compare, hash and print as
   before, so that the text of a kernel, and so its name in every cache, stays as it is.
4. When a kernel's text is put together its lines are numbered, and ``define_kernel`` says which kernel the text is of.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fuselab.capture.internals import KERNEL_LINES, MADE, WrittenLine, _module

__all__ = ["record_line_origins"]

_META = "fuselab_origin"
_ATTRIBUTE = "_fuselab_origin"
_MOST_TEXTS = 64
"""Texts that wait for ``define_kernel``; a text that was tried and thrown away is never asked for."""


class _Nodes(list[str]):
    """Names of the nodes that a line stands for; grows when a later operation turns out to be the same expression."""

    def include(self, name: str) -> None:
        if name not in self:
            self.append(name)


class _Line(str):
    """A line of generated code that knows what it was written for; slices of it know as well."""

    __slots__ = ("nodes",)
    nodes: _Nodes

    def __new__(cls, text: str, nodes: _Nodes) -> _Line:
        line = super().__new__(cls, text)
        line.nodes = nodes
        return line

    def __getitem__(self, index: Any) -> _Line:
        return _Line(super().__getitem__(index), self.nodes)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # what leaves the process is the text


@dataclass
class _State(threading.local):
    """What this thread is in the middle of; compilations may run in several."""

    stack: list[str]
    texts: dict[str, list[WrittenLine]]

    def __init__(self) -> None:
        self.stack = []
        self.texts = {}


_state = _State()


@contextlib.contextmanager
def record_line_origins() -> Iterator[list[str]]:
    """Record while the context is open; yields the reasons why something cannot be. Everything is put back on exit."""
    ir = _module("torch._inductor.ir")
    loop_body = _module("torch._inductor.loop_body")
    utils = _module("torch._inductor.utils")
    common = _module("torch._inductor.codegen.common")
    wrappers: list[tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = [
        (getattr(ir, "Loops", None), "__post_init__", _loops_made),
        (getattr(ir, "ComputedBuffer", None), "get_store_function", _store_function),
        (getattr(loop_body, "LightTracer", None), "create_node", _operation_traced),
        (getattr(utils, "IndentedBuffer", None), "writeline", _line_written),
        (getattr(utils, "IndentedBuffer", None), "getvaluewithlinemap", _text_made),
        (getattr(utils, "DeferredLineBase", None), "__getitem__", _deferred_changed),
        (getattr(utils, "DeferredLineBase", None), "with_prefix", _deferred_changed),
        (getattr(common, "CSE", None), "generate", _expression_generated),
    ]
    for module, name in (("simd", "SIMDScheduling"), ("triton", "TritonScheduling"), ("cpp", "CppScheduling")):
        scheduling = getattr(_module(f"torch._inductor.codegen.{module}"), name, None)
        if scheduling is not None and "define_kernel" in vars(scheduling):
            wrappers.append((scheduling, "define_kernel", _kernel_defined))
    missing = [name for owner, name, _ in wrappers if not callable(getattr(owner, name, None))]
    if missing:
        yield [f"lines of kernels are not traced to nodes: this torch has no {', '.join(missing)}"]
        return
    with contextlib.ExitStack() as undo:
        for owner, name, wrapper in wrappers:
            undo.callback(_replace(owner, name, wrapper))
        try:
            yield []
        finally:
            _state.texts.clear()


def _replace(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Wrap a method; the way back, which leaves alone what somebody else has wrapped since."""
    own = vars(owner).get(name)
    wrapped = functools.wraps(getattr(owner, name))(wrapper(getattr(owner, name)))
    setattr(owner, name, wrapped)

    def undo() -> None:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    return undo


def _saying(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def said(*args: Any, **kwargs: Any) -> Any:
        _state.stack.append(name)
        try:
            return function(*args, **kwargs)
        finally:
            _state.stack.pop()

    return said


def _loops_made(original: Callable[..., Any]) -> Callable[..., Any]:
    def made(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        name = _node_name(_virtualized("current_node"))
        if name:
            object.__setattr__(self, _ATTRIBUTE, name)
            graph = _virtualized("graph")
            if graph is not None:
                if not isinstance(getattr(graph, MADE, None), set):
                    setattr(graph, MADE, set())
                getattr(graph, MADE).add(name)
            if callable(getattr(self, "inner_fn", None)):
                object.__setattr__(self, "inner_fn", _saying(self.inner_fn, name))
        return result

    return made


def _store_function(original: Callable[..., Any]) -> Callable[..., Any]:
    """What a buffer's loop nest computes and stores by itself, around its closure: a reduction, the store."""

    def function(self: Any, *args: Any, **kwargs: Any) -> Any:
        store = original(self, *args, **kwargs)
        name = getattr(getattr(self, "data", None), _ATTRIBUTE, None)
        return _saying(store, name) if name else store

    return function


def _operation_traced(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_node(self: Any, *args: Any, **kwargs: Any) -> Any:
        node = original(self, *args, **kwargs)
        # A body that is traced anew from another body takes what that one recorded.
        name = _state.stack[-1] if _state.stack else _interpreted()
        if name:
            node.meta[_META] = name
        return node

    return create_node


def _line_written(original: Callable[..., Any]) -> Callable[..., Any]:
    def writeline(self: Any, line: Any) -> Any:
        nodes = getattr(line, "nodes", None) or getattr(getattr(line, "line", None), "nodes", None)
        if nodes is None:
            name = _interpreted()
            # Inductor looks for its launch-control lines by exact type.
            if not name or (isinstance(line, str) and "gdc_" in line):
                return original(self, line)
            nodes = _Nodes([name])
        lines = self._lines
        before = len(lines)
        result = original(self, line)
        if len(lines) == before + 1:
            written = lines[-1]
            if isinstance(written, str):
                if written:
                    lines[-1] = _Line(written, nodes)
            elif hasattr(written, "line"):
                written.nodes = nodes
        return result

    return writeline


def _deferred_changed(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        nodes = getattr(self, "nodes", None) or getattr(self.line, "nodes", None)
        if nodes is not None and not isinstance(result, str):
            result.nodes = nodes
        return result

    return changed


def _expression_generated(original: Callable[..., Any]) -> Callable[..., Any]:
    """One line may serve several operations: the later ones find its variable and write nothing."""

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        variable = original(self, *args, **kwargs)
        name = _interpreted()
        if name:
            nodes = getattr(variable, "fuselab_nodes", None)
            if nodes is None:
                buffer = args[0] if args else kwargs.get("buffer")
                last = (getattr(buffer, "_lines", None) or [None])[-1]
                nodes = getattr(last, "nodes", None)
                text = str(getattr(last, "line", last))
                if nodes is not None and str(variable) in text.partition("=")[0]:
                    variable.fuselab_nodes = nodes
            else:
                nodes.include(name)
        return variable

    return generate


def _text_made(original: Callable[..., Any]) -> Callable[..., Any]:
    def made(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if any(getattr(line, "nodes", None) is not None for line in self._lines):
            if len(_state.texts) >= _MOST_TEXTS:
                del _state.texts[next(iter(_state.texts))]
            _state.texts[result.value] = _numbered(self._lines)
        return result

    return made


def _numbered(lines: list[Any]) -> list[WrittenLine]:
    """Line numbers as ``getvaluewithlinemap`` counts them."""
    found = []
    number = 1
    for line in lines:
        text = line if isinstance(line, str) else line() if callable(line) else None
        if text is None:  # unwritten, or a mark without text
            continue
        nodes = getattr(line, "nodes", None)
        if nodes is not None:
            parts = str(text).split("\n")
            found += [
                WrittenLine(number + index, part.strip(), tuple(nodes))
                for index, part in enumerate(parts)
                if part.strip()
            ]
        number += 1 + text.count("\n")
    return found


def _kernel_defined(original: Callable[..., Any]) -> Callable[..., Any]:
    def define_kernel(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        name = original(self, source, *args, **kwargs)
        lines = _state.texts.get(source) if isinstance(source, str) else None
        graph = _virtualized("graph")
        if lines and graph is not None:
            kernels = getattr(graph, KERNEL_LINES, None)
            if not isinstance(kernels, dict):
                kernels = {}
                setattr(graph, KERNEL_LINES, kernels)
            known = kernels.get(str(name))
            kernels[str(name)] = lines if known is None else _merged(known, lines)
        return name

    return define_kernel


def _merged(first: list[WrittenLine], second: list[WrittenLine]) -> list[WrittenLine]:
    """One kernel generated twice with the same text: its lines stand for the nodes of both."""
    by_line = {line.line: line for line in first}
    for line in second:
        known = by_line.get(line.line)
        nodes = line.nodes if known is None else tuple(dict.fromkeys((*known.nodes, *line.nodes)))
        by_line[line.line] = WrittenLine(line.line, line.text, nodes)
    return [by_line[number] for number in sorted(by_line)]


def _virtualized(name: str) -> Any:
    """What Inductor calls ``V.<name>``; None outside of what it is set for."""
    value = getattr(getattr(_module("torch._inductor.virtualized"), "V", None), name, None)
    return None if type(value).__name__ == "NullHandler" else value


def _node_name(node: Any) -> str:
    return str(node.name) if hasattr(node, "name") and hasattr(node, "meta") else ""


def _interpreted() -> str:
    """The node that the operation is for which is being interpreted in this thread; empty where there is none."""
    node = getattr(_virtualized("interpreter"), "current_node", None)
    return _origin(node) if node is not None else ""


def _origin(node: Any, depth: int = 4) -> str:
    """An operation's node; one that a back end has put in belongs to what it works on."""
    own = node.meta.get(_META)
    if own or depth == 0:
        return str(own or "")
    for argument in getattr(node, "all_input_nodes", ()):
        found = _origin(argument, depth - 1)
        if found:
            return found
    return ""
