"""The torch and triton that are installed, looked at as files: nothing of theirs is imported."""

from __future__ import annotations

import functools
import importlib.util
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from fuselab.env_vars.catalogue import Variable
from fuselab.env_vars.scan import Read, scan_source
from fuselab.versions import release

__all__ = ["Installation", "Presence"]

PACKAGES = ("torch", "triton", "nvidia")
_WHOLE = re.compile(rb"([A-Z][A-Z0-9_]{3,80})\0")
_VERSION = re.compile(r"^__version__\s*(?::[^=]+)?=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an installation reads a variable."""

    found: bool | None
    """None when it cannot be said: the release does not read it, or this build has none of the files."""
    where: tuple[str, ...] = ()
    """``torch/_inductor/config.py:570``, or the library."""
    reason: str = ""
    """Why it is not found, or cannot be said."""
    reads: tuple[Read, ...] = ()


class Installation:
    """Where the packages lie: ``here()`` for this interpreter's, or the directory of another site-packages.

    Args:
        roots: for each package the directory that holds it.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self.roots = dict(roots)

    @classmethod
    def at(cls, site_packages: Path) -> Installation:
        """All packages of one site-packages directory."""
        return cls({package: site_packages for package in PACKAGES if (site_packages / package).is_dir()})

    @classmethod
    def here(cls) -> Installation:
        """What this interpreter would import, found without importing it."""
        roots = {}
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            if spec is not None and spec.submodule_search_locations:
                roots[package] = Path(next(iter(spec.submodule_search_locations))).parent
        return cls(roots)

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """Versions of torch and triton as their sources say."""
        found = {}
        for package, file in (("torch", "torch/version.py"), ("triton", "triton/__init__.py")):
            path = self.path(file)
            version = _VERSION.search(path.read_text(errors="replace")) if path else None
            if version:
                found[package] = version[1]
        return found

    def path(self, file: str) -> Path | None:
        """A file named by its path below site-packages; None when it is not installed."""
        root = self.roots.get(file.split("/", 1)[0])
        path = root / file if root else None
        return path if path is not None and path.is_file() else None

    def in_range(self, variable: Variable) -> bool:
        """Whether the installed release is one that reads the variable, by ``since`` and ``until``."""
        version = self.versions.get(variable.package)
        if version is None:
            return True
        have = release(version)[:2]
        return (variable.since is None or have >= release(variable.since)) and (
            variable.until is None or have <= release(variable.until)
        )

    def look(self, variable: Variable) -> Presence:
        """Whether and where the variable is read here: sources are parsed, libraries searched for the name."""
        if not self.in_range(variable):
            version = self.versions[variable.package]
            bound = f"from {variable.since}" if variable.since else ""
            bound += f" to {variable.until}" if variable.until else ""
            return Presence(found=None, reason=f"{variable.package} {version} does not read it: {bound.strip()} does")
        here = [(file, path) for file in variable.files if (path := self.path(file))]
        if not here:
            missing = ", ".join(variable.files)
            return Presence(found=None, reason=f"this build has none of the files that read it ({missing})")
        where: list[str] = []
        reads: list[Read] = []
        for file, path in here:
            if file.endswith(".py"):
                found = [read for read in self.reads(file) if read.name == variable.name]
                where += [f"{read.file}:{read.line}" for read in found]
                reads += found
            elif library_holds(path, variable.name, whole=not variable.mentioned):
                where.append(file)
        if where:
            return Presence(found=True, where=tuple(where), reads=tuple(reads))
        return Presence(found=False, reason=f"not in {', '.join(file for file, _ in here)}")

    @functools.lru_cache(maxsize=256)  # noqa: B019 - lives as long as the command
    def reads(self, file: str) -> tuple[Read, ...]:
        """Every read in one installed source."""
        path = self.path(file)
        return tuple(scan_source(path.read_text(errors="replace"), file)) if path else ()

    def readers_of(self, name: str) -> list[str]:
        """Every installed file that reads a variable, catalogued or not: a search through all sources and libraries.

        Takes a second or two; for names that are not in the catalogue.
        """
        found = []
        for package in ("torch", "triton"):
            root = self.roots.get(package)
            if root is None:
                continue
            for path in _sources(root / package):
                text = path.read_bytes()
                if name.encode() in text:
                    file = path.relative_to(root).as_posix()
                    found += (
                        [file] if any(r.name == name for r in scan_source(text.decode(errors="replace"), file)) else []
                    )
        for package, root in self.roots.items():
            found += [p.relative_to(root).as_posix() for p in _libraries(root / package) if library_holds(p, name)]
        return found


def _sources(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*.py")) if "testing" not in path.relative_to(root).parts)


def _libraries(root: Path) -> Iterator[Path]:
    for pattern in ("lib/*.so*", "lib/*.dylib", "_C/*.so", "*/lib/lib*.so*"):
        yield from sorted(path for path in root.glob(pattern) if path.is_file() and not path.is_symlink())


def library_holds(path: Path, name: str, *, whole: bool = True) -> bool:
    """Whether a shared library holds a name as a string of its own, or with ``whole=False`` within a message.

    A C++ program passes the name to ``getenv`` as a literal, which ends in a NUL and follows one (or alignment).
    """
    if not path.stat().st_size:
        return False
    wanted = name.encode() + (b"\0" if whole else b"")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(wanted)
        while at >= 0:
            before = data[at - 1] if at else 0
            after = data[at + len(wanted)] if not whole else 0
            if whole and not 32 <= before < 127:
                return True
            if not whole and not _in_name(before) and not _in_name(after):
                return True
            at = data.find(wanted, at + 1)
    return False


def names_in(path: Path, prefixes: Iterable[str]) -> set[str]:
    """Every string of a library that looks like a variable's name and begins with one of the prefixes."""
    found = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for prefix in prefixes:
            at = data.find(prefix.encode())
            while at >= 0:
                whole = _WHOLE.match(data, at)
                if whole and not (at and 32 <= data[at - 1] < 127):
                    found.add(whole[1].decode())
                at = data.find(prefix.encode(), at + 1)
    return found


def _in_name(byte: int) -> bool:
    return chr(byte).isalnum() or byte == ord("_")
