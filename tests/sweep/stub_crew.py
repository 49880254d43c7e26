"""Preloaded by Dask's workers in the sweep's tests: processes of ``stub_worker`` instead of fuselab's own, no torch."""

from __future__ import annotations

from fuselab.sweep import seat
from fuselab.worker.supervise import Crew


class StubCrew(Crew):
    module = "stub_worker"


def dask_setup(_worker):
    seat.use(StubCrew)
