"""Where units run: a cluster of this host's own, a scheduler somewhere, or a class of cluster that configures itself.

A cluster of our own binds to the loopback address. TLS is Dask's: ``distributed.comm.tls`` in its configuration, or
``DASK_DISTRIBUTED__COMM__TLS__*``, is what the client and a cluster of ours use.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fuselab import probe
from fuselab.device import resolve
from fuselab.errors import SetupError, UsageError, WorkerError

__all__ = ["Cluster", "Where", "opened", "require_sweep_extra"]

LOOPBACK = "127.0.0.1"
CONNECT_S = 30


@dataclass(frozen=True)
class Where:
    """Where to run."""

    scheduler: str | None = None
    """Address of a scheduler that is there already: ``tls://host:8786``, ``tcp://127.0.0.1:8786``."""
    cluster: str | None = None
    """``module:Class`` of a cluster that takes its settings from Dask's configuration."""
    workers: int | None = None
    """Workers of a cluster of ours, or to ask that class for; None: one a GPU, one on a CPU."""
    host: str = LOOPBACK
    """Address that a cluster of ours binds to."""


@dataclass
class Cluster:
    """A connection to workers."""

    client: Any
    """Dask's client."""
    address: str
    """Of the scheduler."""
    dashboard: str = ""
    cores: dict[str, list[int]] = field(default_factory=dict)
    """Cores by name of worker, where the cluster is ours."""
    notes: list[str] = field(default_factory=list)
    """What whoever runs this should know."""


def require_sweep_extra(*modules: str) -> None:
    """Require what only sweeps need.

    Raises:
        SetupError: it is not installed; the hint is the command.
    """
    missing = [m for m in modules or ("distributed", "pyarrow") if importlib.util.find_spec(m) is None]
    if missing:
        raise SetupError(f"a sweep needs {' and '.join(missing)}", hint="pip install 'fuselab[sweep]'")


@contextmanager
def opened(where: Where, device: str) -> Iterator[Cluster]:
    """Connect, and close again what was opened here.

    Args:
        where: a scheduler's address, a class of cluster, or this host.
        device: ``auto``, ``cpu`` or ``cuda``: for a cluster of this host's own.

    Raises:
        SetupError: Dask is not installed, or a GPU was asked for and there is none.
        UsageError: the class is not there, or the scheduler does not answer.
    """
    require_sweep_extra("distributed")
    dask, distributed = importlib.import_module("dask"), importlib.import_module("distributed")
    security = importlib.import_module("distributed.security").Security()
    if (where.scheduler or "").startswith("tls://") and not security.tls_ca_file:
        raise UsageError(
            f"{where.scheduler} speaks TLS, and Dask's configuration here has no certificates",
            hint="set distributed.comm.tls: docs/sweep.md",
        )
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it says of lost workers, we say in our words
    with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_S}s"}):
        cluster: Any = None
        cores: dict[str, list[int]] = {}
        if where.scheduler is None:
            cluster, cores = _made(where) if where.cluster else _local(where, device, security)
        try:
            address = where.scheduler if where.scheduler is not None else cluster.scheduler_address
            try:
                client = distributed.Client(
                    address, timeout=CONNECT_S, set_as_default=False, name="fuselab", security=security
                )
            except (OSError, TimeoutError, ValueError) as error:
                raise UsageError(
                    f"no Dask scheduler answers at {address}: {error}",
                    hint="dask scheduler starts one; tls:// needs distributed.comm.tls in Dask's configuration",
                ) from None
            try:
                yield Cluster(client, str(address), _dashboard(client), cores, _warnings(str(address)))
            finally:
                client.close(timeout=5)
        finally:
            if cluster is not None:
                cluster.close()


def _local(where: Where, device: str, security: Any) -> tuple[Any, dict[str, list[int]]]:
    """A cluster of this host's own: one worker for each GPU and its own cores, or one for the CPU."""
    encrypted = bool(security.tls_ca_file)
    if where.host not in (LOOPBACK, "localhost", "::1") and not encrypted:
        raise UsageError(
            f"--host {where.host} would let whoever reaches it run code here",
            hint="set distributed.comm.tls in Dask's configuration first (docs/sweep.md), or keep to 127.0.0.1",
        )
    distributed = importlib.import_module("distributed")
    protocol = "tls" if encrypted else "tcp"
    device_type = resolve(device)
    gpus = _gpus() if device_type == "cuda" else []
    count = min(where.workers or len(gpus) or 1, len(gpus) or os.cpu_count() or 1)
    shares = _shares(sorted(os.sched_getaffinity(0)), count) if gpus else []  # a CPU is timed as a whole
    options = {"nthreads": 1, "host": where.host, "memory_limit": 0}
    # Without an address Dask's HTTP servers, which are there without a dashboard too, would bind to every interface.
    options["dashboard_address"] = f"{where.host}:0"
    options |= {"silence_logs": logging.CRITICAL, "security": security, "protocol": protocol}
    specification = {}
    for index in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[index]} if gpus else {}
        resources = {"GPU" if gpus else "CPU": 1}
        specification[index] = {
            "cls": distributed.Nanny,
            "options": {**options, "env": environment, "resources": resources},
        }
    try:
        cluster = distributed.SpecCluster(
            workers=specification,
            scheduler={
                "cls": distributed.Scheduler,
                "options": {
                    "host": where.host,
                    "port": 0,
                    "protocol": protocol,
                    "security": security,
                    "dashboard": importlib.util.find_spec("bokeh") is not None,
                    "dashboard_address": f"{where.host}:0",
                },
            },
            security=security,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise WorkerError(f"a cluster on {where.host} cannot be started: {error}") from error
    return cluster, {str(index): share for index, share in enumerate(shares)}


def _made(where: Where) -> tuple[Any, dict[str, list[int]]]:
    """A cluster of the class that was named, with what Dask's configuration says."""
    module, _, name = str(where.cluster).partition(":")
    try:
        cluster = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"no cluster {where.cluster!r}: {error}", hint="--cluster module:Class, such as dask_jobqueue:SLURMCluster"
        ) from None
    if where.workers:
        cluster.scale(where.workers)
    return cluster, {}


def _gpus() -> list[str]:
    """How CUDA_VISIBLE_DEVICES names each GPU that torch can use: by UUID, so that all workers mean the same one."""
    accelerators = probe.ask(probe.TorchFacts).accelerators
    return [gpu.uuid or str(index) for index, gpu in enumerate(accelerators)]


def _shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Disjoint sets of cores; all of them, unsaid, where there is one worker or there are too few."""
    if count == 1 or len(cores) < count:
        return [[] for _ in range(count)]
    return [list(cores[i * len(cores) // count : (i + 1) * len(cores) // count]) for i in range(count)]


def _dashboard(client: Any) -> str:
    if importlib.util.find_spec("bokeh") is None:
        return ""
    link = client.dashboard_link
    return str(link or "")


def _warnings(address: str) -> list[str]:
    host = address.partition("://")[2].rpartition(":")[0].strip("[]")
    if address.startswith("tcp://") and host not in (LOOPBACK, "localhost", "::1"):
        return [
            f"{address} is not encrypted and asks nobody who they are: whoever reaches it can run code on its workers; "
            "docs/sweep.md has the settings for TLS"
        ]
    return []
