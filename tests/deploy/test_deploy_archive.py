"""The package's file: what is refused, and that an old package survives whatever happens to the new one."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import msgspec
import pytest
from package_factory import FILES, manifest, write_package

from fuselab.deploy import archive
from fuselab.deploy.archive import Package, Replacement, describe_files
from fuselab.deploy.manifest import SCHEMA_VERSION, TensorFile, Value, decode_manifest
from fuselab.errors import StoreError, UsageError


def sources(directory: Path, files: dict[str, bytes]) -> dict[str, Path]:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return {name: directory / name for name in files}


def commit(path: Path, directory: Path, files: dict[str, bytes] | None = None) -> tuple[int, str]:
    files = FILES if files is None else files
    found = sources(directory, files)
    with Replacement(path) as replacement:
        return replacement.commit(manifest(files, files=describe_files(found)), found)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "model.pack"
    size, sha256 = commit(path, tmp_path / "staging")
    with Package(path, sha256=sha256) as package:
        package.check_all()
        assert {name: package.read(name) for name in FILES} == FILES
        extracted = package.extract("kernels/0.so", tmp_path / "out")
        assert extracted.read_bytes() == FILES["kernels/0.so"]
    assert size == path.stat().st_size
    assert not path.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_another_file_than_the_one_vouched_for_is_refused(tmp_path):
    path = write_package(tmp_path / "model.pack")
    with pytest.raises(StoreError, match="not the package that was vouched for"):
        Package(path, sha256="0" * 64)


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -30])
def test_a_truncated_package_is_named(tmp_path, keep):
    path = write_package(tmp_path / "model.pack")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"model\.pack is damaged, truncated or no package"):
        Package(path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_bit_is_found_in(tmp_path, name):
    path = write_package(tmp_path / "model.pack")
    data = bytearray(path.read_bytes())
    data[data.index(FILES[name])] ^= 1
    path.write_bytes(data)
    with Package(path) as package, pytest.raises(StoreError, match="damaged"):
        package.check_all()


def test_a_file_replaced_along_with_its_crc_is_found_by_its_checksum(tmp_path):
    forged = {**FILES, "kernels/0.so": b"\x7fELF other!"}
    path = write_package(tmp_path / "model.pack", files=forged, record=manifest(FILES))
    with Package(path) as package, pytest.raises(StoreError, match="checksum"):
        package.read("kernels/0.so")


def symlink_entry() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("kernels/1.so")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("../../etc/cron.d/x", b"x", zipfile.ZIP_STORED)], "a file named"),
        ([("/etc/passwd", b"x", zipfile.ZIP_STORED)], "a file named"),
        ([("kernels/../../x", b"x", zipfile.ZIP_STORED)], "a file named"),
        ([("kernels/.hidden", b"x", zipfile.ZIP_STORED)], "a file named"),
        ([("a\\..\\b", b"x", zipfile.ZIP_STORED)], "a file named"),
        ([(symlink_entry(), b"/etc/passwd", zipfile.ZIP_STORED)], "link or a directory"),
        ([("bomb", bytes(50_000_000), zipfile.ZIP_DEFLATED)], "compressed or encrypted"),
        ([("stowaway.bin", b"x", zipfile.ZIP_STORED)], "the manifest does not list it"),
    ],
)
def test_a_hostile_member_is_refused(tmp_path, extra, message):
    path = write_package(tmp_path / "model.pack", extra=extra)
    with pytest.raises(StoreError, match=message):
        Package(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pack"]


def test_a_member_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write_package(tmp_path / "model.pack", extra=[("kernels/0.so", FILES["kernels/0.so"], 0)])
    with pytest.raises(StoreError, match="twice"):
        Package(path)


def test_members_that_overlap_are_refused(tmp_path):
    """An archive whose directory gives one piece of the file many names: small on disk, large when unpacked."""
    data = FILES["golden/0.bin"]
    many = {f"golden/{i:03}.bin": data for i in range(400)}
    path = write_package(tmp_path / "model.pack", files=many, record=manifest(many, artifacts="", calls=[]))
    with zipfile.ZipFile(path) as whole:
        infos = whole.infolist()
        begin, kept = whole.start_dir, infos[2].header_offset
        directory, end = path.read_bytes()[begin:], path.read_bytes().index(b"PK\x05\x06")
    entries, at = b"", 0
    for info in infos:
        length = 46 + len(info.filename)
        entry = bytearray(directory[at : at + length])
        if info.filename.startswith("golden"):
            entry[42:46] = infos[1].header_offset.to_bytes(4, "little")  # all of them are the first one's bytes
        entries, at = entries + bytes(entry), at + length
    tail = bytearray(path.read_bytes()[end:])
    tail[16:20] = kept.to_bytes(4, "little")  # and the others' bytes are gone
    path.write_bytes(path.read_bytes()[:kept] + entries + bytes(tail))
    with pytest.raises(StoreError, match="damaged"), Package(path) as package:
        package.check_all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"schema_version": SCHEMA_VERSION + 1}, "newer than the"),
        (lambda d: {k: v for k, v in d.items() if k != "machine"}, "damaged manifest.*machine"),
        (lambda d: d | {"files": [f | {"size": -1} for f in d["files"]]}, "damaged manifest"),
        (lambda d: d | {"files": [f | {"sha256": "x"} for f in d["files"]]}, "damaged manifest"),
        (lambda d: d | {"files": d["files"][:1] * 2}, "twice"),
        (lambda d: d | {"artifacts": "../artifacts"}, "does not list"),
        (lambda d: d | {"libraries": [{"key": "0" * 64, "file": "kernels/9.so"}]}, "does not list"),
        (lambda d: d | {"model": {"source": "/etc/passwd"}}, "does not list"),
    ],
)
def test_a_damaged_manifest_is_named(change, message):
    document = msgspec.json.decode(msgspec.json.encode(manifest()))
    with pytest.raises(StoreError, match=message):
        decode_manifest(msgspec.json.encode(change(document)), "model.pack")


@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [2, 4]},
        {"stride": [300, 1]},
        {"dtype": "float64"},
        {"dtype": "object"},
        {"dtype": "_C"},
        {"shape": [2, 3, 1]},
        {"file": "kernels/0.so"},
    ],
)
def test_a_tensor_that_reaches_beyond_its_file_is_refused(tensor):
    spec = {"file": "golden/0.bin", "dtype": "float32", "shape": [2, 3], "stride": [3, 1]} | tensor
    record = manifest()
    call = msgspec.structs.replace(record.calls[0], args=[Value(tensor=msgspec.convert(spec, TensorFile))])
    with pytest.raises(StoreError, match=r"model\.pack"):
        decode_manifest(msgspec.json.encode(msgspec.structs.replace(record, calls=[call])), "model.pack")


def test_a_manifest_nested_without_end_is_refused():
    document = msgspec.json.decode(msgspec.json.encode(manifest()))
    text = b'{"sequence":[' * 5000 + b'{"plain":1}' + b"]}" * 5000
    document["calls"][0]["args"] = ["HERE"]
    data = msgspec.json.encode(document).replace(b'"HERE"', text)
    with pytest.raises(StoreError, match="damaged manifest"):
        decode_manifest(data, "model.pack")


# Trust


def test_a_package_that_everybody_can_change_is_refused(tmp_path):
    path = write_package(tmp_path / "model.pack")
    path.chmod(0o666)
    with pytest.raises(StoreError, match="written by everybody") as caught:
        Package(path)
    assert caught.value.hint == f"chmod o-w {path}"


def test_a_package_in_a_directory_that_everybody_can_change_is_refused(tmp_path):
    place = tmp_path / "open"
    place.mkdir()
    path = write_package(place / "model.pack")
    place.chmod(0o777)
    with pytest.raises(StoreError, match="written by everybody"):
        Package(path)
    link = tmp_path / "linked.pack"
    link.symlink_to(path)
    with pytest.raises(StoreError, match="written by everybody"):
        Package(link)


def test_a_package_of_another_user_is_refused(tmp_path, monkeypatch):
    path = write_package(tmp_path / "model.pack")
    other = max(path.stat().st_uid, 1) + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    if path.stat().st_uid == 0:
        monkeypatch.setattr(Path, "stat", _owned_by(4242, Path.stat))
    with pytest.raises(StoreError, match="belongs to another user"):
        Package(path)


def _owned_by(uid: int, stat_: object):
    def call(self, **settings):
        fields = list(stat_(self, **settings))
        fields[4] = uid
        return os.stat_result(fields)

    return call


def test_what_is_no_plain_file_is_refused(tmp_path):
    fifo = tmp_path / "pipe.pack"
    os.mkfifo(fifo)
    opener = os.open(fifo, os.O_RDWR)  # so that reading does not wait for a writer
    try:
        with pytest.raises(StoreError, match="not a plain file"):
            Package(fifo)
    finally:
        os.close(opener)
    with pytest.raises(StoreError, match="cannot read"):
        Package(tmp_path / "missing.pack")


# Replacing


def test_an_old_package_is_replaced_and_keeps_its_mode(tmp_path):
    path = write_package(tmp_path / "model.pack")
    path.chmod(0o640)
    commit(path, tmp_path / "staging", {**FILES, "kernels/0.so": b"new kernel"})
    with Package(path) as package:
        assert package.read("kernels/0.so") == b"new kernel"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_is_no_package_is_not_replaced(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("precious = 1\n")
    with pytest.raises(UsageError, match="exists and is no package"):
        Replacement(path)
    assert path.read_text() == "precious = 1\n"
    link = tmp_path / "link.pack"
    link.symlink_to(path)
    with pytest.raises(UsageError, match="symbolic link"):
        Replacement(link)
    with pytest.raises(UsageError, match="not a plain file"):
        Replacement(tmp_path)


def test_a_directory_that_is_not_there_is_found_before_anything_is_built(tmp_path):
    with pytest.raises(StoreError, match="cannot write"):
        Replacement(tmp_path / "nowhere" / "model.pack")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("place", ["write", "fsync"])
def test_a_disk_that_refuses_leaves_the_old_package(tmp_path, monkeypatch, number, place):
    path = write_package(tmp_path / "model.pack")
    before = path.read_bytes()

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    if place == "fsync":
        monkeypatch.setattr(archive.os, "fsync", refuse)
    else:
        monkeypatch.setattr(archive, "_add", refuse)
    with pytest.raises(StoreError, match=os.strerror(number)) as caught:
        commit(path, tmp_path / "staging")
    assert str(path) in caught.value.message
    assert path.read_bytes() == before
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


CHILD = """
import os, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from package_factory import manifest
from test_deploy_archive import sources
from fuselab.deploy.archive import Replacement, describe_files
from fuselab.errors import StoreError
directory = Path({directory!r})
files = {{"golden/0.bin": bytes(24), "caches/artifacts.bin": b"artifacts", "kernels/0.so": bytes(4_000_000)}}
found = sources(directory / "staging", files)
record = manifest(files, files=describe_files(found))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{limit}
try:
    with Replacement(directory / "model.pack") as replacement:
        {before}
        replacement.commit(record, found)
except StoreError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def child(directory: Path, *, limit: str = "", before: str = "") -> subprocess.Popen:
    code = CHILD.format(tests=str(Path(__file__).parent), directory=str(directory), limit=limit, before=before)
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_full_disk_for_real_leaves_the_old_package(tmp_path):
    path = write_package(tmp_path / "model.pack")
    before = path.read_bytes()
    limit = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    )
    process = child(tmp_path, limit=limit)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert f"cannot write {path}: File too large" in said
    assert "free some space" in said
    assert path.read_bytes() == before
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_kill_leaves_the_old_package_and_the_next_packing_clears_up(tmp_path):
    path = write_package(tmp_path / "model.pack")
    before = path.read_bytes()
    # Killed with everything written, before the exchange: the latest moment at which the old one has to stand.
    stop = "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    process = child(tmp_path, before=stop)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    (leftover,) = (p for p in tmp_path.iterdir() if p.name.startswith("."))
    assert leftover.stat().st_size > 4_000_000
    commit(path, tmp_path / "again")
    assert not leftover.exists()
    with Package(path) as package:
        package.check_all()


def test_a_packing_in_progress_is_not_cleared_away_by_another(tmp_path):
    path = write_package(tmp_path / "model.pack")
    with Replacement(path):
        (sibling,) = (p for p in tmp_path.iterdir() if p.name.startswith("."))
        commit(path, tmp_path / "other")
        assert sibling.exists()
    assert not sibling.exists()
