"""The same requests carried out in the user's own process, for functions that only live there (a notebook's)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from fuselab.experiment import Experiment
from fuselab.records import Status
from fuselab.worker.check import check, environment, experiment_of, needs_interpreter
from fuselab.worker.messages import (
    Answer,
    CheckRequest,
    DescribeRequest,
    DescribeResult,
    Failure,
    Progress,
    Request,
)
from fuselab.worker.outcome import failure_of
from fuselab.worker.timing import time_variants

__all__ = ["Local"]


class Local:
    """Answers requests without another process: no deadline, and a crash is this process's own."""

    concurrent = False
    """Whether calls may be made from several threads at a time."""

    device_id: str = ""
    """The device that this process measures on, once it was described."""

    def __init__(self, experiments: Mapping[str, Experiment]) -> None:
        self._experiments = experiments

    def call(
        self,
        request: Request,
        *,
        deadline_s: float,
        environment_variables: Mapping[str, str] | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> Answer:
        """Carry out one request here; exceptions and exits are answers (``Failure``)."""
        try:
            with environment(environment_variables or {}):
                return self._answer(request, on_progress)
        except SystemExit as error:
            return Failure(status=Status.EXITED, reason=f"it called sys.exit({error.code!r})")
        except Exception as error:  # noqa: BLE001 - whatever user code raises is the answer
            return failure_of(error, traceback.format_exc())

    def stop(self) -> None:
        """Nothing to stop: the call in flight is on the caller's own stack."""

    def _answer(self, request: Request, say: Callable[[Progress], None]) -> Answer:
        if isinstance(request, DescribeRequest):
            from fuselab import device

            device_type = device.resolve(request.device)
            return DescribeResult(environment=device.environment(device_type), device_id=device.device_id(device_type))
        experiment = self._experiments.get(request.experiment.name) or experiment_of(request.experiment)
        if isinstance(request, CheckRequest):
            kind = experiment.variant(request.variant).kind
            if needs_interpreter(kind, request.device_type):
                return Failure(
                    status=Status.UNAVAILABLE,
                    reason="Triton's interpreter needs a process of its own (isolate=True)",
                )
            return check(request, progress=say, experiment=experiment)
        return time_variants(request, progress=say, experiment=experiment)
