"""Dask's sockets: loopback unless told otherwise, TLS by Dask's own settings, and nothing plain beyond the host."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fuselab.errors import UsageError
from fuselab.sweep.cluster import Where, _shares, _warnings, opened

ONE = """
name = "one"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"
[[experiment]]
name = "silu"
axes.shape = ["9x64"]
"""


def test_another_address_than_loopback_is_refused_without_tls():
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0"), opened(Where(host="0.0.0.0"), "cpu"):
        pass


@pytest.mark.slow
def test_a_cluster_of_our_own_listens_on_loopback_alone():
    pytest.importorskip("distributed")
    psutil = pytest.importorskip("psutil")
    here = psutil.Process()
    before = {c.laddr for c in here.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    with opened(Where(), "cpu") as cluster:
        cluster.client.wait_for_workers(1, timeout=120)
        listening = [
            c.laddr
            for process in [here, *here.children(recursive=True)]
            for c in process.net_connections("inet")
            if c.status == psutil.CONN_LISTEN and c.laddr not in before
        ]
    assert len(listening) >= 3  # scheduler, nanny, worker
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_a_scheduler_that_is_not_there_is_named():
    pytest.importorskip("distributed")
    with (
        pytest.raises(UsageError, match="no cluster 'nowhere:Cluster'"),
        opened(Where(cluster="nowhere:Cluster"), "cpu"),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://10.0.0.7:8786", True),
        ("tls://10.0.0.7:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
    ],
)
def test_a_plain_scheduler_elsewhere_is_warned_of(address, warned):
    assert bool(_warnings(address)) == warned


def test_workers_of_one_host_have_cores_of_their_own():
    shares = _shares(range(10), 4)
    assert sorted(core for share in shares for core in share) == list(range(10))
    assert all(len(share) >= 2 for share in shares)
    assert _shares(range(10), 1) == [[]]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_sweep_over_tls_and_no_word_without_the_certificate(place):
    key, certificate = place.directory / "key.pem", place.directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(certificate)}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        tls[f"DASK_DISTRIBUTED__COMM__TLS__{role}__KEY"] = str(key)
        tls[f"DASK_DISTRIBUTED__COMM__TLS__{role}__CERT"] = str(certificate)
    place.plan(ONE)
    done = place.fuselab("sweep", "plan.toml", **tls)  # a cluster of our own
    assert done.returncode == 0, done.stderr
    place.environment |= tls
    _, address = place.scheduler("--protocol", "tls")
    assert address.startswith("tls://")
    place.worker(address)
    done = place.fuselab("sweep", "plan.toml", "--scheduler", address)
    assert done.returncode == 0, done.stderr
    place.environment = {name: value for name, value in place.environment.items() if name not in tls}

    refused = place.fuselab("sweep", "plan.toml", "--scheduler", "tls://127.0.0.1:9")
    assert refused.returncode == 2
    assert "has no certificates" in refused.stderr
    assert "distributed.comm.tls" in refused.stderr
