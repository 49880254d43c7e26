"""What autotuning timed while a capture was open."""

from __future__ import annotations

from typing import ClassVar

from fuselab.capture import internals
from fuselab.capture.timings import recorded_timings


def test_timings_of_autotuning_are_noted_and_the_method_is_put_back(monkeypatch):
    class Config:
        kwargs: ClassVar = {"XBLOCK": 8}
        num_warps, num_stages = 4, 1

    class Launcher:
        def __init__(self, name):
            self.cache_hash, self.config, self.n_regs, self.n_spills = name, Config, 32, 0

    class Autotuner:
        def bench(self, launcher, milliseconds):
            return milliseconds

    before = Autotuner.bench
    monkeypatch.setattr(internals, "autotuner", lambda: Autotuner)
    found = {}
    with recorded_timings(found):
        tuner = Autotuner()
        assert tuner.bench(Launcher("a"), 0.004) == 0.004
        tuner.bench(Launcher("a"), 0.002)
        tuner.bench(Launcher("b"), float("inf"))
    assert Autotuner.bench is before
    assert (found["a"].time_us, found["a"].config) == (2.0, {"XBLOCK": 8, "num_warps": 4, "num_stages": 1})
    assert found["b"].time_us is None
