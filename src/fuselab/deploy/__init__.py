"""Shipping: warm-start packages with their proof, and a compiled model that can be served.

fuselab pack model.py:Block -o block.pack          # on a machine like the one that serves
fuselab verify-pack block.pack                     # no compilation, equal answers, how much faster

served = fuselab.deploy.load("block.pack", model)  # compiles nothing
y = served(x)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuselab.deploy.machine import ForeignPackageError
    from fuselab.deploy.manifest import Reference
    from fuselab.deploy.packing import Packed, pack
    from fuselab.deploy.proof import Proof, verify
    from fuselab.deploy.served import CompiledModel, UndeclaredCallError, load

_HOMES = {
    "CompiledModel": "served",
    "ForeignPackageError": "machine",
    "Packed": "packing",
    "Proof": "proof",
    "Reference": "manifest",
    "UndeclaredCallError": "served",
    "load": "served",
    "pack": "packing",
    "verify": "proof",
}

__all__ = [
    "CompiledModel",
    "ForeignPackageError",
    "Packed",
    "Proof",
    "Reference",
    "UndeclaredCallError",
    "load",
    "pack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fuselab.deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fuselab.deploy' has no attribute {name!r}; it has {', '.join(__all__)}")
