"""Defaults from ``[tool.fuselab]`` of the nearest pyproject.toml.

The command line comes first, then ``FUSELAB_*`` variables, then these.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuselab.errors import UnknownNameError, UsageError

__all__ = ["defaults_from_project"]


def defaults_from_project(start: Path, allowed: Mapping[str, frozenset[str]]) -> dict[str, dict[str, Any]]:
    """Defaults by command, from the first pyproject.toml at ``start`` or above that has ``[tool.fuselab]``.

    ``[tool.fuselab]`` holds options of every command that has them, ``[tool.fuselab.run]`` those of one command.

    Args:
        start: directory to begin with.
        allowed: option names by command; an option that no command has is refused.

    Raises:
        UsageError: the file cannot be read as TOML.
        UnknownNameError: an option that is not there; names the nearest match.
    """
    for directory in (start, *start.parents):
        path = directory / "pyproject.toml"
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            continue
        try:
            tools = tomllib.loads(content.decode("utf-8")).get("tool")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from None
        table = tools.get("fuselab") if isinstance(tools, dict) else None
        if table is None:
            continue
        if not isinstance(table, dict):
            raise UsageError(
                f"{path}: fuselab = {table!r} is not a table", hint='[tool.fuselab] with options below it: out = "runs"'
            )
        return _by_command(table, allowed, path)
    return {}


def _by_command(
    table: Mapping[str, Any], allowed: Mapping[str, frozenset[str]], path: Path
) -> dict[str, dict[str, Any]]:
    every = frozenset().union(*allowed.values())
    defaults: dict[str, dict[str, Any]] = {command: {} for command in allowed}
    for name, value in table.items():
        if isinstance(value, dict):
            if name not in allowed:
                raise UnknownNameError(f"command in {path} [tool.fuselab]", name, allowed, plural="commands")
            for option, setting in value.items():
                if option.replace("-", "_") not in allowed[name]:
                    raise UnknownNameError(
                        f"option in {path} [tool.fuselab.{name}]", option, allowed[name], plural="options"
                    )
                defaults[name][option.replace("-", "_")] = setting
            continue
        option = name.replace("-", "_")
        if option not in every:
            raise UnknownNameError(f"option in {path} [tool.fuselab]", name, every, plural="options")
        for command, options in allowed.items():
            if option in options:
                defaults[command].setdefault(option, value)
    return defaults
