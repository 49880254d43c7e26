"""Packages made by hand: what the archive and the manifest refuse needs no compiler."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import msgspec

from fuselab.deploy.manifest import MANIFEST, Call, Compilation, File, Machine, Manifest, Reference, Step, TensorFile
from fuselab.records import Workload

MACHINE = Machine(
    torch="2.13.0+cpu",
    triton="3.7.1",
    cuda=None,
    python="cpython-311",
    system="Linux",
    architecture="x86_64",
    libc="glibc 2.36",
    device_type="cpu",
    device="AMD EPYC",
    cpu_isa="AVX2",
    cpu_features=["avx", "avx2", "fma", "sse4_2"],
    cpu_threads=2,
)

FILES = {
    "golden/0.bin": bytes(range(24)),
    "caches/artifacts.bin": b"bytes of torch's own",
    "kernels/0.so": b"\x7fELF kernel",
}


def manifest(contents: dict[str, bytes] | None = None, **changes) -> Manifest:
    contents = FILES if contents is None else contents
    tensor = TensorFile(file="golden/0.bin", dtype="float32", shape=[2, 3], stride=[3, 1])
    call = Call(label="x=f32[2,3]", workload=Workload(), args=[], forward=Step(outputs={"output": tensor}))
    settings = {
        "fuselab": "0.1.0",
        "created_at": "2026-01-01T00:00:00+00:00",
        "machine": MACHINE,
        "model": Reference(name="rms_norm"),
        "compilation": Compilation(),
        "calls": [call],
        "files": [File(name=n, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for n, d in contents.items()],
        "artifacts": "caches/artifacts.bin",
    }
    return Manifest(**(settings | changes))


def write_package(path: Path, *, files: dict[str, bytes] | None = None, record: object | None = None, extra=()) -> Path:
    """A package without any of ``Replacement``'s care; ``extra`` are (ZipInfo or name, bytes, compression)."""
    files = FILES if files is None else files
    document = manifest(files) if record is None else record
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MANIFEST, document if isinstance(document, bytes) else msgspec.json.encode(document))
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data, compression in extra:
            archive.writestr(info, data, compression)
    path.chmod(0o644)
    return path
