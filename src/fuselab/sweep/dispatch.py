"""The client's side of Dask: one unit at a time to each worker that was welcomed, and what comes of each.

Dask brings workers, transport and a dashboard; who measures what is decided here. A worker holds one unit and no more,
so the scheduler never knows of more units than there are workers, however large the plan is, and a worker that is lost
takes one unit along.
"""

from __future__ import annotations

import queue
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fuselab import __version__
from fuselab.errors import WorkerError
from fuselab.records import Workload
from fuselab.sweep import seat as seats_side
from fuselab.sweep.cluster import Cluster
from fuselab.sweep.messages import Introduction, IntroductionRequest, UnitResult, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Dispatch", "Seat", "Unit", "Work"]

POLL_S = 0.2
MEMBERS_EVERY_S = 1.0
FETCH_S = 30.0
"""A result of a few kilobytes is fetched within this, or its worker is gone."""

SCHEDULER_GRACE_S = 10.0
"""A connection to the scheduler that is down for longer does not come back by itself."""

PATIENCE_S = 120.0
"""How long a sweep with work left waits for a worker that can do it."""

LATECOMERS_S = 60.0
"""How long those that can measure wait for those that have not said so yet: they join when they do."""

BUSY_S = 1800.0
"""A worker answers after the unit that an earlier client left it with; that takes no longer than this."""

RESUME = "what was measured is kept: fuselab sweep --resume goes on with it"


@dataclass
class Unit:
    """One workload of one run: what a worker does at a time."""

    run: int
    """Which of the sweep's runs."""
    workload: Workload
    attempts: int = 0
    """How often a worker was lost over it."""


@dataclass
class Seat:
    """One worker."""

    address: str
    name: str
    here: Introduction | None = None
    """None until it has introduced itself."""
    out: str = ""
    """Why it takes no part; empty while it does."""
    unit: Unit | None = None
    future: Any = None
    """Dask's future of the question that it was asked last."""
    cores: list[int] = field(default_factory=list)
    """Cores that it keeps to, where the cluster is ours."""

    @property
    def model(self) -> str:
        """The name of its device; empty until it has introduced itself."""
        return self.here.environment.device if self.here and self.here.environment else ""

    @property
    def idle(self) -> bool:
        """Whether it could take a unit."""
        return self.here is not None and not self.out and self.future is None

    def __str__(self) -> str:
        device = self.here.device_id if self.here else ""
        uuid = f" ({device})" if device.startswith(("GPU", "MIG")) else ""
        return f"{self.model or 'a worker'}{uuid} at {self.address}"


class Work(Protocol):
    """What there is to do, and who keeps the results."""

    def welcome(self, seat: Seat) -> str:
        """Why a worker that introduced itself cannot take part, or nothing."""

    def next_unit(self, model: str) -> Unit | None:
        """Something for a device of this model."""

    def request(self, unit: Unit, seat: Seat) -> str:
        """A ``UnitRequest`` as text."""

    def accept(self, unit: Unit, seat: Seat, result: UnitResult) -> None:
        """Keep the results of a unit."""

    def lost(self, unit: Unit, seat: Seat, reason: str) -> None:
        """A unit whose worker is gone."""

    def note(self, text: str) -> None:
        """Something about a worker or a device."""

    def waiting(self, seats: list[Seat]) -> bool:
        """Whether units wait that may still be begun."""


class Dispatch:
    """Workers of a cluster and the units they have in hand."""

    def __init__(self, cluster: Cluster, device: str, *, patience_s: float = PATIENCE_S) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._device = device
        self._patience_s = patience_s
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._looked = 0.0
        self._disconnected: float | None = None
        self.seats: dict[str, Seat] = {}

    def gather(self) -> list[Seat]:
        """Wait until every worker that is there has introduced itself, and at least one can measure.

        Raises:
            WorkerError: none can, or there is none.
        """
        begin = time.monotonic()
        while True:
            self._look()
            self._hear(None)
            waited = time.monotonic() - begin
            asked = [seat for seat in self.seats.values() if seat.here is None and not seat.out]
            able = [seat for seat in self.seats.values() if seat.idle]
            if able and (not asked or waited > LATECOMERS_S):
                return able
            if not asked and (self.seats or waited > self._patience_s):
                break
            if waited > BUSY_S:
                break
        reasons = "; ".join(f"{seat.address}: {seat.out}" for seat in self.seats.values() if seat.out)
        raise WorkerError(
            f"no worker at {self._cluster.address} can measure{': ' + reasons if reasons else ''}",
            hint="`fuselab doctor` on the worker's host says what is missing" if reasons else "start one: dask worker",
        )

    def run(self, work: Work) -> None:
        """Hand out units until none is left.

        Raises:
            WorkerError: the scheduler is gone, or no worker is left that could do what is left.
            StoreError: from ``work``, when the disk refuses.
        """
        for seat in self.seats.values():
            self._welcome(seat, work)
        idle_since = time.monotonic()
        while True:
            self._look(work)
            self._assign(work)
            busy = [seat for seat in self.seats.values() if seat.unit is not None]
            if not busy and not work.waiting(list(self.seats.values())):
                return
            if busy or any(seat.here is None and not seat.out for seat in self.seats.values()):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self._patience_s:
                out = "; ".join(dict.fromkeys(f"{seat}: {seat.out}" for seat in self.seats.values() if seat.out))
                raise WorkerError(
                    f"no worker is left for what is left of the sweep{': ' + out if out else ''}", hint=RESUME
                )
            self._hear(work)

    def cancel(self) -> None:
        """Give up what is in flight; a worker elsewhere ends the unit that it is at, and nobody takes the result."""
        for seat in self.seats.values():
            if seat.future is not None:
                seat.future.cancel()

    def _look(self, work: Work | None = None) -> None:
        """Who is there: workers that came are asked for their introduction, those that went leave their unit."""
        self._require_scheduler()
        if time.monotonic() - self._looked < MEMBERS_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            there = {str(a): str(w["name"]) for a, w in self._client.scheduler_info(n_workers=-1)["workers"].items()}
        except (OSError, TimeoutError):
            return  # the connection is down: the scheduler's grace runs
        for address in [a for a in self.seats if a not in there]:
            self._gone(self.seats.pop(address), work, "its worker is gone")
        for address, name in there.items():
            if address not in self.seats:
                seat = self.seats[address] = Seat(address, name, cores=self._cluster.cores.get(name, []))
                request = IntroductionRequest(device=self._device, fuselab=__version__, cores=seat.cores)
                self._submit(seat, seats_side.introduce, encode(request), "introduction", {})

    def _require_scheduler(self) -> None:
        if self._client.status == "running":
            self._disconnected = None
            return
        self._disconnected = self._disconnected or time.monotonic()
        if self._client.status == "closed" or time.monotonic() - self._disconnected > SCHEDULER_GRACE_S:
            raise WorkerError(f"the scheduler at {self._cluster.address} is gone", hint=RESUME)

    def _assign(self, work: Work) -> None:
        for seat in self.seats.values():
            if seat.idle and (unit := work.next_unit(seat.model)) is not None:
                seat.unit = unit
                assert seat.here is not None  # noqa: S101 - an idle seat has introduced itself
                assert seat.here.environment is not None  # noqa: S101
                kind = "GPU" if seat.here.environment.device_type == "cuda" else "CPU"
                self._submit(seat, seats_side.carry_out, work.request(unit, seat), unit.workload.key, {kind: 1})

    def _submit(
        self, seat: Seat, function: Callable[[str], str], text: str, what: str, needs: dict[str, float]
    ) -> None:
        seat.future = self._client.submit(
            function,
            text,
            key=f"fuselab-{what}-{uuid.uuid4().hex}",  # a late result of an earlier attempt is another key's
            workers=[seat.address],
            allow_other_workers=False,
            resources=needs or None,
            pure=False,
            retries=0,
        )
        address = seat.address
        seat.future.add_done_callback(lambda future: self._answers.put((address, future)))

    def _hear(self, work: Work | None) -> None:
        """Take in one answer, if there is one within a moment."""
        try:
            address, future = self._answers.get(timeout=POLL_S)
        except queue.Empty:
            return
        seat = self.seats.get(address)
        if seat is None or seat.future is not future:
            return  # given up meanwhile: whoever has the unit now brings the result
        text, problem = self._fetched(future)
        seat.future = None
        if seat.here is None:
            self._introduced(seat, text, problem, work)
            return
        unit, seat.unit = seat.unit, None
        assert work is not None  # noqa: S101 - units are handed out by run() alone
        assert unit is not None  # noqa: S101 - a seat that was introduced has a future for a unit only
        if text is None:
            work.lost(unit, seat, problem)
            return
        result = decode(text, UnitResult)
        if result.refused or result.device_lost:
            seat.out = result.refused or result.device_lost
            work.note(f"{seat} is out of the sweep: {seat.out}")
        work.accept(unit, seat, result)

    def _introduced(self, seat: Seat, text: str | None, problem: str, work: Work | None) -> None:
        if text is None:
            seat.out = problem
            return
        here = decode(text, Introduction)
        if here.refused:
            seat.out = here.refused
        seat.here = here
        if work is not None:
            self._welcome(seat, work)

    def _welcome(self, seat: Seat, work: Work) -> None:
        if seat.here is not None and not seat.out:
            seat.out = work.welcome(seat)
        if seat.out:
            work.note(f"{seat} takes no part: {seat.out}")

    def _gone(self, seat: Seat, work: Work | None, reason: str) -> None:
        if seat.future is not None:
            seat.future.cancel()
        if seat.unit is not None and work is not None:
            work.lost(seat.unit, seat, reason)

    def _fetched(self, future: Any) -> tuple[str | None, str]:
        """The answer, or why there is none."""
        if future.status == "cancelled":
            return None, "its worker is gone"
        try:
            return str(future.result(timeout=FETCH_S)), ""
        except Exception as error:  # noqa: BLE001 - Dask hands on whatever a worker raised, of any class
            return None, f"{type(error).__name__}: {error}"
