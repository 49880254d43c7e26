"""The key of a call's random numbers, from a generator that keeps the rules of torch's on CUDA devices."""

import contextlib
import random
import threading
import types

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fuselab.ops import internals, philox_key
from fuselab.ops.philox_key import NO_KEY, draw, mixed


class Generator:
    """Seed and offset on the host, as ``torch.cuda.default_generators`` has them."""

    def __init__(self, seed=5):
        self.manual_seed(seed)

    def manual_seed(self, seed):
        self.seed, self.offset = seed, 0

    def initial_seed(self):
        return self.seed

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        assert offset % 4 == 0
        self.offset = offset


@pytest.fixture
def generators(monkeypatch):
    """Two devices, the first of them current; nothing is captured and nothing transformed."""
    monkeypatch.setattr(internals, "current_device", lambda: 0)
    monkeypatch.setattr(internals, "_generators_have_offsets", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator(5), Generator(6)), raising=False)
    return torch.cuda.default_generators


def tensor(index=0, cuda=True):
    # What is drawn on the device comes from the CPU.
    return types.SimpleNamespace(is_cuda=cuda, get_device=lambda: index, device=torch.device("cpu"))


def test_keys_of_one_seed_differ():
    for seed in (0, 1, 2**62, 2**64 - 1):
        keys = {mixed(seed, 4 * count) for count in range(20_000)}
        assert len(keys) == 20_000
        assert all(0 <= half < 2**31 for key in keys for half in key)
    assert mixed(3, 2**64 - 4) != mixed(3, 0)


def test_a_key_is_not_the_seed():
    """Zero in particular, which permutations made of multiplications leave zero."""
    assert all(mixed(seed, 0) != (seed % 2**31, seed >> 31) for seed in range(2_000))


def test_seeds_have_keys_of_their_own():
    """Ranks are seeded with numbers next to each other, and their calls have the same offsets."""
    keys = {mixed(seed, 4 * count) for seed in range(200) for count in range(200)}
    assert len(keys) == 200 * 200
    assert mixed(1, 0) != mixed(1 + 2**62, 0) != mixed(1 + 2**63, 0) != mixed(1, 0)


def test_every_bit_of_seed_and_offset_counts():
    """One bit of either changes about half of the key's."""
    draws = random.Random(0)

    def changed(seed, offset, to_seed, to_offset):
        pairs = zip(mixed(seed, offset), mixed(to_seed, to_offset), strict=True)
        return sum((a ^ b).bit_count() for a, b in pairs)

    for bit in range(64):
        seeds = [(draws.getrandbits(64), 4 * draws.getrandbits(62)) for _ in range(200)]
        counts = [changed(s, o, s ^ 1 << bit, o) for s, o in seeds]
        assert 24 < sum(counts) / 200 < 38
        if bit >= 2:
            counts = [changed(s, o, s, o ^ 1 << bit) for s, o in seeds]
            assert 24 < sum(counts) / 200 < 38


def test_the_generator_advances_and_the_seed_reproduces(generators):
    generator = generators[0]
    drawn = [draw(tensor(), True) for _ in range(3)]
    keys = [key for _, key in drawn]
    assert len({*keys, NO_KEY}) == 4
    assert generator.offset == 12
    # One tensor for all of them: no kernel runs.
    assert all(seed is drawn[0][0] for seed, _ in drawn)
    assert drawn[0][0].tolist() == [0]
    generator.manual_seed(5)
    assert [draw(tensor(), True)[1] for _ in range(3)] == keys
    generator.offset = 4  # the state before the second call, as checkpointing restores it
    assert draw(tensor(), True)[1] == keys[1]
    generator.manual_seed(7)
    assert draw(tensor(), True)[1] not in keys
    assert generators[1].offset == 0


def test_zero_can_be_saved_for_a_backward(generators, monkeypatch):
    """Also when the first call of all was one for inference, and under a device or a mode of somebody's."""
    monkeypatch.setattr(philox_key, "_zeros", {})
    with FakeTensorMode():
        assert isinstance(draw(tensor(), True)[0], torch.Tensor)
    assert not philox_key._zeros
    with torch.inference_mode(), torch.device("meta"):
        zero = draw(tensor(), True)[0]
    assert not zero.is_inference()
    assert zero.device.type == "cpu"
    assert draw(tensor(), True)[0] is zero


@pytest.mark.parametrize("why", ["traced", "cpu", "captured", "other device", "transformed", "no offsets", "not known"])
def test_drawn_on_the_device_where_it_has_to_be(generators, monkeypatch, why):
    x = tensor(1 if why == "other device" else 0, why != "cpu")
    if why == "captured":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    elif why == "transformed":
        monkeypatch.setattr(internals, "_transforms_active", lambda: True)
    elif why == "no offsets":
        monkeypatch.setattr(internals, "_generators_have_offsets", False)
    elif why == "not known":
        monkeypatch.setattr(torch.cuda, "default_generators", ())
    torch.manual_seed(3)
    seed, key = draw(x, why != "traced")
    assert (seed.dtype, seed.shape, key) == (torch.int64, (1,), NO_KEY)
    assert seed.tolist() != [0]
    assert why != "captured" or seed >= 0
    assert [g.offset for g in generators] == [0, 0]
    torch.manual_seed(3)
    assert torch.equal(draw(x, why != "traced")[0], seed)


def test_torch_has_what_is_asked_for():
    """Of the release that is installed: else every call would draw on the device, unnoticed."""
    assert internals._generators_have_offsets
    assert internals._transforms_active is not None
    assert isinstance(torch.cuda.default_generators, tuple)
    assert callable(torch.cuda.is_current_stream_capturing)


def test_threads_share_no_key(generators, monkeypatch):
    """A generator that lets others in between its two questions."""
    turn = threading.Barrier(2)

    def slow(self):
        offset = self.offset
        # Both threads are here only if nothing keeps one out.
        with contextlib.suppress(threading.BrokenBarrierError):
            turn.wait(timeout=0.2)
        return offset

    monkeypatch.setattr(Generator, "get_offset", slow)
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(draw(tensor(), True)[1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 2
    assert mixed(5, 4) in keys
