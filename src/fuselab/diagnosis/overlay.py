"""Other text in place of what is in some files, for one process: edits are tried in it, and no file is written."""

from __future__ import annotations

import contextlib
import importlib.machinery
import linecache
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["overlaid"]


@contextlib.contextmanager
def overlaid(overlay: Mapping[str, str]) -> Iterator[None]:
    """Have Python read other text than what is in some files; the files are not touched, no bytecode is kept.

    Modules of those files that were imported before are imported anew; on exit everything is as it was.
    """
    if not overlay:
        yield
        return
    loader = importlib.machinery.SourceFileLoader
    read, stats = loader.get_data, loader.path_stats
    texts = {str(Path(path).resolve()): text for path, text in overlay.items()}

    def get_data(self: Any, path: Any) -> bytes:
        text = texts.get(str(Path(path).resolve()))
        return read(self, path) if text is None else text.encode()

    def path_stats(self: Any, path: Any) -> Any:
        if str(Path(path).resolve()) in texts:
            raise OSError("no bytecode for a text that is in no file")  # Python then compiles, and keeps nothing
        return stats(self, path)

    dropped = {
        name: module
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None)) and str(Path(file).resolve()) in texts
    }
    for name in dropped:
        del sys.modules[name]
    try:
        loader.get_data, loader.path_stats = get_data, path_stats  # type: ignore[assignment,method-assign]
        for path, text in overlay.items():  # no modification time: linecache then takes it for true
            linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
        yield
    finally:
        loader.get_data, loader.path_stats = read, stats  # type: ignore[method-assign]
        for path in overlay:
            linecache.cache.pop(path, None)
        sys.modules.update(dropped)
