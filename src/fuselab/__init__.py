"""fuselab measures, shows and beats what ``torch.compile`` does with fusable PyTorch code.

The commands' names as functions, imported when first used, so that ``import fuselab`` costs nothing::

    import fuselab

    outcomes = fuselab.run("rms_norm", shapes=["4096x1024"], dtypes=["f32"])
    outcomes[0]                      # displays itself in a notebook

What is not in ``__all__`` is private.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuselab.api import doctor, load_run, run
    from fuselab.capture import capture

__all__ = ["__version__", "capture", "doctor", "load_run", "run"]

__version__ = "0.1.0"

_HOMES = {"run": "fuselab.api", "doctor": "fuselab.api", "load_run": "fuselab.api", "capture": "fuselab.capture"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fuselab' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
