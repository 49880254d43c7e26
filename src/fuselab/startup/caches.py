"""Caches seen from outside: which files a process added to them, and which components of a key have changed. Pure.

C++ libraries and Triton kernels are partly built by helper processes, where no hook of ours reaches; their caches are
directories of files named by hash, so that a file that was there before is a hit and one that was not is a miss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fuselab.startup.messages import Components
from fuselab.startup.records import CacheName, CacheUse, KeyChange, Lookup

__all__ = ["cache_environment", "changes", "components_of", "explained", "libraries", "triton_groups", "uses"]

VALUE_LENGTH = 160
"""Characters of a component's value that are kept."""

MOST_CHANGES = 20
"""Changed components that a lookup lists; the rest is a number in its reason."""

_LINE = re.compile(r"^\[(?P<hash>[^\]]*)\] (?P<name>[^:\[]+(?:\[[^\]]*\])?): ?(?P<value>.*)$", re.DOTALL)


def cache_environment(caches: Path) -> dict[str, str]:
    """Variables that point a process's compiler at a directory, and switch off what would reach past it."""
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        # A remote cache would make a cold start warm; set by nobody outside of large companies.
        "TORCHINDUCTOR_FX_GRAPH_REMOTE_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_REMOTE_CACHE": "0",
    }


def libraries(caches: Path) -> frozenset[str]:
    """C++ libraries in Inductor's cache, relative to it."""
    root = caches / "inductor"
    return frozenset(str(path.relative_to(root)) for path in root.rglob("*.so")) if root.is_dir() else frozenset()


def mapped_libraries(caches: Path) -> frozenset[str]:
    """Of Inductor's C++ libraries those that this process has loaded; empty where the system does not say."""
    root = str(caches / "inductor") + "/"
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    paths = (line[line.index("/") :] for line in maps.splitlines() if "/" in line)
    return frozenset(path.removeprefix(root) for path in paths if path.startswith(root) and path.endswith(".so"))


def triton_groups(caches: Path) -> frozenset[str]:
    """Kernels in Triton's cache: the directories that hold a finished group of files."""
    root = caches / "triton"
    if not root.is_dir():
        return frozenset()
    return frozenset(path.parent.name for path in root.rglob("__grp__*.json"))


def components_of(lines: Iterable[str]) -> Components:
    """The components of a key from the compiler's debug lines.

    Example:
        >>> components_of(["[abc] inductor_config[max_autotune]: False", "[def] gm: <lambda>()"]).parts
        {'inductor_config[max_autotune]': ('abc', 'False'), 'gm': ('def', '<lambda>()')}
    """
    parts: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = _LINE.match(line)
        if match is not None:
            value = " ".join(match["value"].split())
            shortened = value if len(value) <= VALUE_LENGTH else value[: VALUE_LENGTH - 1] + "…"
            parts[match["name"].strip()] = (match["hash"], shortened)
    return Components(parts=parts)


def changes(before: Components, after: Components) -> list[KeyChange]:
    """What is not as it was, in the order of the newer key.

    Example:
        >>> old = components_of(["[a] gm: f()", "[b] inductor_config[cpp.threads]: 1"])
        >>> new = components_of(["[a] gm: f()", "[c] inductor_config[cpp.threads]: 2"])
        >>> [(c.component, c.before, c.after) for c in changes(old, new)]
        [('inductor_config[cpp.threads]', '1', '2')]
    """
    names = [*after.parts, *(name for name in before.parts if name not in after.parts)]
    return [
        KeyChange(component=name, before=before.parts.get(name, ("", ""))[1], after=after.parts.get(name, ("", ""))[1])
        for name in names
        if before.parts.get(name, ("", ""))[0] != after.parts.get(name, ("", ""))[0]
    ]


def explained(
    lookups: Sequence[Lookup],
    components: Sequence[Components],
    earlier: Mapping[tuple[CacheName, int], Components],
) -> list[Lookup]:
    """The lookups, those that missed with what has changed since an earlier process asked the same question.

    Args:
        lookups: of one process, in order.
        components: of their keys, one by one.
        earlier: components of the process that filled the cache, by cache and place among the cache's lookups.
    """
    counts: dict[CacheName, int] = {}
    found: list[Lookup] = []
    for lookup, now in zip(lookups, components, strict=True):
        place = counts.get(lookup.cache, 0)
        counts[lookup.cache] = place + 1
        before = earlier.get((lookup.cache, place))
        if lookup.state == "hit" or before is None or not now.parts or not before.parts:
            found.append(lookup)
            continue
        changed = changes(before, now)
        reason = lookup.reason
        if len(changed) > MOST_CHANGES:
            reason = f"{reason}; {len(changed)} components changed".strip("; ")
        found.append(
            Lookup(
                cache=lookup.cache,
                state=lookup.state,
                key=lookup.key,
                reason=reason,
                changed=changed[:MOST_CHANGES],
            )
        )
    return found


def uses(lookups: Iterable[Lookup]) -> list[CacheUse]:
    """How each cache fared, every cache in the order of ``CacheName``."""
    counts: dict[CacheName, dict[str, int]] = {name: {} for name in CacheName}
    for lookup in lookups:
        counts[lookup.cache][lookup.state] = counts[lookup.cache].get(lookup.state, 0) + 1
    return [
        CacheUse(cache=name, hits=n.get("hit", 0), misses=n.get("miss", 0), bypasses=n.get("bypass", 0))
        for name, n in counts.items()
    ]
