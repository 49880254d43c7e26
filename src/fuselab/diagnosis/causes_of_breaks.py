"""The catalogue of graph breaks: data, tried in this order. See ``causes``."""

from __future__ import annotations

import ast

from fuselab.diagnosis.cause import Cause

__all__ = ["BREAKS"]

_BUILTIN = r"Failed to trace builtin operator"
_SKIPPED = r"marked as skipped|Failed to trace builtin operator|Unsupported function call"
_JUMP = r"Data-dependent|data-dependent|attempted to jump|Assertion failed on symbolic shapes|guard on data-dependent"

BREAKS = (
    Cause(
        "print",
        "a print",
        "Printing is done by Python, so the graph ends before it and another begins after it.",
        "Let the compiler move the print behind the computation, or take it out of the compiled function.",
        judgement=False,
        rewrites=("reorder_print", "reorder_formatted_print"),
        gb_type=_SKIPPED,
        context=r"builtin print\b|qualname: print\b",
    ),
    Cause(
        "log",
        "a log line",
        "Logging is done by Python, so the graph ends before it and another begins after it.",
        "Log outside of the compiled function, or have the compiler leave the line out of what it compiles.",
        judgement=True,
        rewrites=("reorder_log", "ignore_log"),
        gb_type=r"logging\.Logger method|" + _SKIPPED,
        context=r"<Logger |logging|qualname: (?:Logger\.|info|debug|warning|error)",
    ),
    Cause(
        "warning",
        "a warning",
        "Warnings are given by Python, so the graph ends before it and another begins after it.",
        "Let the compiler move the warning behind the computation, or take it out of the compiled function.",
        judgement=False,
        rewrites=("reorder_warning",),
        gb_type=_SKIPPED,
        context=r"module: _?warnings\b|qualname: warn\b|builtin warn\b",
    ),
    Cause(
        "data_dependent_loop",
        "a loop that depends on a tensor's values",
        "How often the loop runs is known only when the tensor is: the whole function is left to Python.",
        "Run a fixed number of steps and select with torch.where, or use torch.while_loop.",
        judgement=True,
        gb_type=_JUMP + r"|Tensor\.item\(\)|graph break in loop",
        statement=ast.While,
    ),
    Cause(
        "item",
        "a tensor's value taken into Python",
        "The value is known only when everything before it has run: the graph ends there, and on a GPU the host waits.",
        "Stay with the tensor: without .item() it computes the same, and torch.where takes the place of the branch.",
        judgement=False,
        rewrites=("where", "drop_item", "drop_item_where", "capture_scalars"),
        gb_type=r"Tensor\.item\(\)|Data dependent operator|wrap unbacked SymInt",
    ),
    Cause(
        "data_dependent_branch",
        "a branch that depends on a tensor's values",
        "Which way it goes is known only when everything before it has run: the graph ends there.",
        "Compute both sides and select with torch.where; or torch.cond, where one side is costly.",
        judgement=False,
        rewrites=("where",),
        gb_type=_JUMP,
    ),
    Cause(
        "data_dependent_shape",
        "an operator whose result's shape depends on a tensor's values",
        "How large the result is, is known only when the tensor is: the graph ends before the operator.",
        "Keep the shape (torch.where with a mask in place of selecting), or have such operators captured.",
        judgement=False,
        rewrites=("capture_dynamic_shapes",),
        gb_type=r"Dynamic shape operator|Dynamic slicing with Tensor",
    ),
    Cause(
        "tolist",
        "a tensor turned into a Python list",
        "The values are known only when everything before has run: the graph ends there, and on a GPU the host waits.",
        "Index the tensor instead of a list made from it.",
        judgement=True,
        rewrites=("drop_tolist",),
        gb_type=r"Tensor\.tolist\(\)",
    ),
    Cause(
        "numpy",
        "NumPy that the compiler has no translation for",
        "Some NumPy functions are compiled as torch operators, this one is not: the graph ends there.",
        "Write it with torch operators.",
        judgement=True,
        gb_type=r".*",
        context=r"[Nn]um[Pp]y|ndarray",
    ),
    Cause(
        "clock",
        "the clock is read",
        "What the time is cannot be part of a graph, and a time taken inside one would measure nothing.",
        "Take times around the compiled function.",
        judgement=True,
        gb_type=r"Call to a time function|" + _SKIPPED,
        context=r"module: time\b|qualname: (?:time|perf_counter|monotonic|process_time)(?:_ns)?\b|time\.\w+|`time`",
    ),
    Cause(
        "debugger",
        "a breakpoint",
        "A debugger stops Python, which is not there inside a graph.",
        "Take it out.",
        judgement=True,
        gb_type=_SKIPPED,
        context=r"builtin breakpoint\b|module: pdb\b|qualname: (?:Pdb|set_trace)",
    ),
    Cause(
        "input_output",
        "a file or the terminal is read",
        "Reading and writing are done by Python, so the graph ends there.",
        "Read before the compiled function is called, and pass in what was read.",
        judgement=True,
        gb_type=_SKIPPED,
        context=r"builtin (?:open|input)\b|module: (?:io|_io|os|posix|pathlib)\b|TextIOWrapper|BufferedReader",
    ),
    Cause(
        "explicit_break",
        "a graph break that was asked for",
        "torch._dynamo.graph_break() ends the graph.",
        "Take it out.",
        judgement=True,
        rewrites=("remove_statement",),
        gb_type=r"torch\._dynamo\.graph_break\(\)",
    ),
    Cause(
        "disabled_function",
        "a function that is kept from being compiled",
        "torch.compiler.disable keeps the function out: the graph ends before the call and another begins after it.",
        "Take the decorator off, or call the function before or after the compiled part.",
        judgement=True,
        gb_type=r"torch\.(?:compiler|_dynamo)\.disable|skip_frame|step_unsupported",
    ),
    Cause(
        "context_manager",
        "a context manager that the compiler does not know",
        "A graph can neither begin nor end inside of it, so the function is left to Python.",
        "Enter it outside of the compiled function.",
        judgement=True,
        gb_type=r"[Uu]nsupported context manager|GenericContextWrapping|context manager",
    ),
    Cause(
        "autograd_inside",
        "autograd is driven inside the compiled function",
        "backward(), requires_grad_() and the like change what the graph is for: it ends there.",
        "Compile the forward alone and call backward() outside: the backward is compiled along with it.",
        judgement=True,
        gb_type=r"backward\(\)|requires_grad_\(\)|retain_grad|autograd\.grad|grad_fn",
    ),
    Cause(
        "exception",
        "an exception inside the compiled function",
        "The compiler follows raise and except only so far: the graph ends there.",
        "Test for what is wrong before, outside of the compiled function.",
        judgement=True,
        gb_type=r"Observed exception|failed to raise|Exception with|[Ee]xception",
    ),
    Cause(
        "python_function",
        "a function that the compiler cannot look into",
        "It is written in C, or on the compiler's list of those it leaves alone: the graph ends there.",
        "Call it outside of the compiled function and pass in its result; if it computes on tensors, make it a "
        "torch.library.custom_op.",
        judgement=True,
        gb_type=_SKIPPED + r"|[Bb]uiltin|C/C\+\+|method call|inline|C-level|Untraceable",
    ),
    Cause(
        "unsupported",
        "something that this compiler does not support",
        "The graph ends there; the compiler's own words and hints are below.",
        "Follow the compiler's hints, or move it out of the compiled function.",
        judgement=True,
        gb_type=r".*",
    ),
)
"""Causes of graph breaks."""
