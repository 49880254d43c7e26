"""Where planted code is, and a stream of calls carried out in the test's own process: torch is imported once."""

from __future__ import annotations

import copy
import re
from pathlib import Path

PLANTED = Path(__file__).parent / "planted"

SETTINGS = (
    "reorderable_logging_functions",
    "ignore_logging_functions",
    "capture_scalar_outputs",
    "capture_dynamic_output_shape_ops",
    "allow_unspec_int_on_nn_module",
)
"""What an edit may set in torch; in a process of its own that ends with it."""


def observe_here(request):
    """The events of one request."""
    import torch

    from fuselab.diagnosis.observe import observe

    config = torch._dynamo.config
    before = {name: copy.copy(getattr(config, name)) for name in SETTINGS if hasattr(config, name)}
    events = []
    try:
        observe(request, events.append)
    finally:
        for name, value in before.items():
            setattr(config, name, value)
        torch.compiler.reset()
    return events


def marked_line(file, function):
    """Number of the line with the mark in a planted function (or a class's forward)."""
    text = (PLANTED / f"{file}.py").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(text) if re.match(rf"(def|class) {function}\b", line))
    return next(i for i, line in enumerate(text[start:], start + 1) if "# mark" in line)
