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
    from fuselab.page.comparison import compare
    from fuselab.startup import compile_cost

_HOMES = {
    "capture": "fuselab",  # the package is the function: it can be called
    "compare": "fuselab.page.comparison",
    "compile_cost": "fuselab.startup",
    "deploy": "fuselab",
    "diagnose": "fuselab.diagnosis",
    "doctor": "fuselab.api",
    "env": "fuselab.env_vars",
    "inspect": "fuselab.offline",
    "load_run": "fuselab.api",
    "run": "fuselab.api",
}
"""Where each name is from; a name of fuselab itself is a package."""

__all__ = ["__version__", "capture", "compare", "compile_cost", "deploy", "diagnose", "doctor", "env", "inspect"]
__all__ += ["load_run", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fuselab' has no attribute {name!r}; it has {', '.join(__all__)}")
    if home == "fuselab":
        return importlib.import_module(f"fuselab.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
