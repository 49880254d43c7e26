"""A hundred cells on Dask with planted faults: worker, client and scheduler killed, resumed, nothing lost or repeated.

Rows of the table in FAULTS: 10, 14, 21, 29. ``FUSELAB_SWEEP_KILLS`` sets the number of random kills (1 in the suite).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter

import pytest
from sweep_place import children_of, kill, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("FUSELAB_SWEEP_KILLS", "1"))

HUNDRED = """
name = "hundred"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"
budget.check_s = 10

[[experiment]]
name = "silu"
shape = "{rows}x64"
[experiment.axes]
rows = [
17, 2, 25, 3, 33, 4, 41, 5, 49, 57, 65, 73, 81, 89, 97, 105, 113, 121, 129, 137, 145, 153, 161, 169, 177, 185,
193, 201, 209, 217, 225, 233, 241, 249, 257, 265, 273, 281, 289, 297, 305, 313, 321, 329, 337, 345, 353, 361,
369, 377,
]
"""

PLANTED = {
    "2x64 compile forward": "out_of_memory",
    "3x64 compile forward": "crashed",
    "4x64 compile forward": "timed_out",
    "5x64 compile forward": "wrong",
}


def complete(place):
    """Every cell once, four with the status that names what was planted."""
    cells, statuses = place.stored()
    assert len(cells) == 100
    assert set(cells.values()) == {1}
    assert {name: status for name, status in statuses.items() if status != "ok"} == PLANTED
    assert Counter(statuses.values())["ok"] == 96


def killed_at(place, count, process, number):
    """Send a signal once so many cells are stored; what is stored afterwards, and how much was measured by then."""
    until(lambda: sum(place.stored()[0].values()) >= count or process.poll() is not None, f"{count} stored cells")
    assert process.poll() is None, (place.directory / "errors").read_text()[-2000:]
    process.send_signal(number)
    process.wait()
    return set(place.stored()[0]), len(place.measured())


def test_fault_29_a_hundred_cells_and_three_kills(place):
    place.plan(HUNDRED)
    scheduler, address = place.scheduler()
    workers = [place.worker(address), place.worker(address)]
    client = place.start("fuselab", "sweep", "plan.toml", "--scheduler", address)

    # A worker: its nanny starts another, the client begins the unit again.
    until(lambda: sum(place.stored()[0].values()) >= 8, "8 stored cells")
    before_worker = set(place.stored()[0]), len(place.measured())
    for pid in children_of(workers[0].pid):
        kill(pid)

    # The client: what it had stored stands; a second client on the same scheduler goes on.
    before_client = killed_at(place, 28, client, signal.SIGKILL)
    shown = place.fuselab("show", "hundred", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["sweep"]["status"] == "interrupted"
    client = place.start("fuselab", "sweep", "--resume", "latest", "--scheduler", address)

    # The scheduler: the client says so and ends; a new one takes over.
    until(lambda: sum(place.stored()[0].values()) >= 56 or client.poll() is not None, "56 stored cells")
    kill(scheduler.pid)
    assert client.wait(timeout=240) == 1, (place.directory / "errors").read_text()[-2000:]
    before_scheduler = set(place.stored()[0]), len(place.measured())
    for worker in workers:
        for pid in [*children_of(worker.pid), worker.pid]:
            kill(pid)
    _, address = place.scheduler()
    place.worker(address)
    place.worker(address)
    last = place.fuselab("sweep", "--resume", "latest", "--scheduler", address)
    assert last.returncode == 1, last.stderr  # four cells failed, as planted

    complete(place)
    measured = place.measured()
    for stored, position in (before_worker, before_client, before_scheduler):
        assert not stored & set(measured[position:]), "a finished cell was measured again"
    twice = {name.split()[0] for name, count in Counter(measured).items() if count > 1}
    assert len(twice) <= 3 * 2, "more was repeated than two workers had in flight at three kills"


SMALL = """
name = "small"
device = "cpu"
variants = ["eager", "compile"]
directions = "forward"

[[experiment]]
name = "silu"
shape = "{rows}x64"
axes.rows = [9, 17, 25, 33, 41, 49]
"""


@pytest.mark.parametrize("number", range(KILLS))
def test_fault_14_random_kills_lose_nothing(place, number):
    """SIGKILL at a random moment to whatever is alive: every file is readable, every stored cell stays, once."""
    chance = random.Random(number)
    place.plan(SMALL)
    client = place.start("fuselab", "sweep", "plan.toml")
    until(lambda: list(place.directory.glob("runs/silu/2*/metadata.json")) or client.poll() is not None, "a run")
    time.sleep(chance.uniform(0.0, 4.0))
    victims = [client.pid, *children_of(client.pid)]
    kill(chance.choice(victims))
    if chance.random() < 0.5:
        kill(client.pid)
    client.wait()
    stored = place.stored()[0]
    listing = json.loads(place.fuselab("list-runs", "--json").stdout)
    assert listing["rejected"] == []
    records = json.loads(place.fuselab("list-sweeps", "--json").stdout)
    assert len(records) == 1
    if records[0]["status"] != "complete":
        resumed = place.fuselab("sweep", "--resume", "latest")
        assert resumed.returncode == 0, resumed.stderr
    cells, statuses = place.stored()
    assert len(cells) == 12
    assert set(cells.values()) == {1}
    assert set(statuses.values()) == {"ok"}
    assert stored.keys() <= cells.keys()
