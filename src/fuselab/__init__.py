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
    from fuselab import capture, deploy
    from fuselab.api import doctor, load_run, run
    from fuselab.diagnosis import diagnose
    from fuselab.env_vars import env
    from fuselab.offline import inspect
    from fuselab.startup import compile_cost

__all__ = ["__version__", "capture", "compile_cost", "deploy", "diagnose", "doctor", "env", "inspect", "load_run", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "capture":  # the package is the function: it can be called
        return importlib.import_module("fuselab.capture")
    if name == "deploy":
        return importlib.import_module("fuselab.deploy")
    if name == "compile_cost":
        return importlib.import_module("fuselab.startup").compile_cost
    if name == "env":
        return importlib.import_module("fuselab.env_vars").env
    if name == "inspect":
        return importlib.import_module("fuselab.offline").inspect
    if name == "diagnose":
        return importlib.import_module("fuselab.diagnosis").diagnose
    if name in __all__:
        return getattr(importlib.import_module("fuselab.api"), name)
    raise AttributeError(f"module 'fuselab' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
