"""Dask's client with workers from a table: what each answers is a function of its request; no process is started."""

from __future__ import annotations

from fuselab import __version__
from fuselab.records import Environment, Measurement, Status
from fuselab.sweep import seat
from fuselab.sweep.messages import Introduction, IntroductionRequest, UnitRequest, UnitResult, decode, encode

H200, A100, STUB = "NVIDIA H200", "NVIDIA A100", "CPU stub"

PLAN = """
name = "small"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"
{extra}

[[experiment]]
name = "silu"
shape = "{{rows}}x64"
axes.rows = [1, 2, 3, 4, 5, 6]
"""


class Answer:
    """A future that is done at once, or never."""

    def __init__(self, text=None, error=None, status="finished"):
        self.text, self.error, self.status = text, error, status
        self.cancelled = False

    def add_done_callback(self, function):
        if self.status != "pending":
            function(self)

    def result(self, timeout):
        if self.error:
            raise self.error
        return self.text

    def cancel(self):
        self.cancelled = True


class Workers:
    """Dask's client with workers from a table: address to a function of a ``UnitRequest``."""

    def __init__(self, table, models=None, versions=None):
        self.table = dict(table)
        self.models = models or {}
        self.versions = versions or {}
        self.status = "running"
        self.asked = []
        self.futures = []

    def scheduler_info(self, n_workers):
        return {"workers": {address: {"name": address} for address in self.table}}

    def submit(self, function, text, *, workers, **_):
        assert isinstance(text, str)
        (address,) = workers
        if function is seat.introduce:
            assert decode(text, IntroductionRequest).fuselab == __version__
            model = self.models.get(address, STUB)
            environment = Environment(
                device=model, device_type="cuda" if model.startswith("NVIDIA") else "cpu",
                versions={"torch": "2.13", "triton": "3.7", "fuselab": __version__, **self.versions.get(address, {})},
            )  # fmt: skip
            future = Answer(encode(Introduction(device_id=f"GPU-{address}", host="h", environment=environment)))
        else:
            assert function is seat.carry_out
            request = decode(text, UnitRequest)
            self.asked.append((address, request.workload.shape[0]))
            future = self.table[address](request)
        self.futures.append(future)
        return future


def cells(request, status=Status.OK, model=STUB, variants=None):
    finished = {variant for variant, _ in request.finished}
    return [
        Measurement(
            experiment=request.experiment.name,
            variant=variant,
            workload=request.workload,
            direction=direction,
            status=status,
            device=model,
        )
        for variant in variants or request.variants
        if variant not in finished
        for direction in request.directions
    ]


def right(request, model=STUB):
    return Answer(encode(UnitResult(measurements=cells(request, model=model), seconds=1.0)))
