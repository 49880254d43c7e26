"""The records of this room: what one process of one way of starting cost, and what follows from all of them.

Frozen, typed, JSON only. Times are nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import enum
import importlib

import msgspec

from fuselab.records import Environment, Status, Workload
from fuselab.startup.shape_records import StreamSummary

__all__ = [
    "BreakEven",
    "CacheName",
    "CacheUse",
    "Calls",
    "CompileCost",
    "Configuration",
    "Interval",
    "KeyChange",
    "Lookup",
    "Memory",
    "Phase",
    "PhaseTime",
    "Preparation",
    "Scope",
    "Start",
    "StartRecord",
    "Unit",
]

SCHEMA_VERSION = 1
"""Version of every line that these records are written to."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base: immutable, keyword-only; unknown fields of a newer version are ignored on reading."""


class Start(enum.StrEnum):
    """A way of starting."""

    EAGER = "eager"
    """Nothing is compiled."""
    COLD = "cold"
    """``torch.compile`` with empty caches."""
    WARM = "warm"
    """``torch.compile`` with the disk caches that an earlier process left."""
    ARTIFACTS = "artifacts"
    """``torch.compile`` with empty caches, filled by ``torch.compiler.load_cache_artifacts``."""
    AOTI = "aoti"
    """A package of AOTInductor's, loaded; Dynamo and Inductor's compiler do not run."""


class Scope(enum.StrEnum):
    """What is given to ``torch.compile``."""

    WHOLE = "whole"
    """The whole function or module."""
    REGIONAL = "regional"
    """Every repeated block of the module by itself, the rest eager."""


class Calls(enum.StrEnum):
    """What one call is."""

    INFERENCE = "inference"
    """A forward under ``torch.no_grad``."""
    TRAINING = "training"
    """A forward and its backward."""


class Phase(enum.StrEnum):
    """A part of the time from the process's start to its first result, in the order in which they mostly come."""

    INTERPRETER = "interpreter"
    """From spawning the process to the first line of ours."""
    IMPORT = "import"
    """Importing torch, the compiler and the experiment, wherever an import happens."""
    CONSTRUCTION = "construction"
    """Building the model and the inputs, moving them to the device."""
    DYNAMO = "dynamo"
    """Tracing the bytecode, building guards."""
    AOT_AUTOGRAD = "aot_autograd"
    """Tracing, functionalising and partitioning the graph."""
    CACHE_KEYS = "cache_keys"
    """Hashing what the caches are looked up by: torch's and triton's sources, the graph, the settings."""
    LOWERING = "lowering"
    """Inductor's graph passes and lowering."""
    CODEGEN = "codegen"
    """Inductor's scheduling, fusion and code generation."""
    COMPILATION = "compilation"
    """Triton or the C++ compiler."""
    AUTOTUNING = "autotuning"
    """Measuring candidates."""
    LOAD = "load"
    """Reading caches, artifacts or packages, loading modules and libraries."""
    CUDA_GRAPH = "cuda_graph"
    """Warming up and recording CUDA graphs."""
    FIRST_LAUNCH = "first_launch"
    """The compiled code, run for the first time; for eager its first call."""


class PhaseTime(Record, frozen=True, kw_only=True):
    """The time of one phase, without what other phases spent inside of it."""

    phase: Phase
    """The phase."""
    duration_ns: int
    """Its time."""


class Interval(Record, frozen=True, kw_only=True):
    """A stretch of the first start on the clock of the process, for the waterfall."""

    phase: Phase
    """The phase."""
    begin_ns: int
    """From when, since the process was spawned."""
    end_ns: int
    """Until when."""


class CacheName(enum.StrEnum):
    """A cache of the compiler."""

    AOT_AUTOGRAD = "aot_autograd"
    FX_GRAPH = "fx_graph"
    TRITON = "triton"
    CPP = "cpp"
    AUTOTUNE = "autotune"


class KeyChange(Record, frozen=True, kw_only=True):
    """A component of a cache key that is not what it was in the process that filled the cache."""

    component: str
    """Its name: ``inductor_config[max_autotune]``, ``gm``, ``example_inputs[0]``, ..."""
    before: str
    """Its value then, shortened; empty where there was none."""
    after: str
    """Its value now, shortened; empty where there is none."""


class Lookup(Record, frozen=True, kw_only=True):
    """One question to a cache."""

    cache: CacheName
    """The cache."""
    state: str
    """``hit``, ``miss`` or ``bypass``."""
    key: str = ""
    """The key, or the file that was found or built."""
    reason: str = ""
    """Why it was bypassed or missed, in the compiler's words."""
    changed: list[KeyChange] = []
    """On a miss of a filled cache: the components of the key that have changed."""


class CacheUse(Record, frozen=True, kw_only=True):
    """How one cache fared in one start."""

    cache: CacheName
    """The cache."""
    hits: int = 0
    """Questions that were answered from the cache."""
    misses: int = 0
    """Questions that were not, so that the work was done."""
    bypasses: int = 0
    """Questions that could not be asked."""

    @property
    def state(self) -> str:
        """``hit``, ``miss``, ``bypass``, ``mixed`` or ``unused``.

        Example:
            >>> CacheUse(cache=CacheName.CPP, hits=2).state, CacheUse(cache=CacheName.CPP, hits=2, misses=1).state
            ('hit', 'mixed')
        """
        kinds = [name for name, n in (("hit", self.hits), ("miss", self.misses), ("bypass", self.bypasses)) if n]
        return kinds[0] if len(kinds) == 1 else "mixed" if kinds else "unused"


class Memory(Record, frozen=True, kw_only=True):
    """Memory at its peak."""

    process_bytes: int | None = None
    """Resident memory of the process at its peak."""
    helpers_bytes: int | None = None
    """Resident memory of the processes that it started (compilers) at its peak, sampled four times a second."""
    device_bytes: int | None = None
    """Device memory that torch's allocator had handed out at its peak."""


class Configuration(Record, frozen=True, kw_only=True):
    """How ``torch.compile`` is called."""

    mode: str = "default"
    """``default``, ``reduce-overhead`` or ``max-autotune``."""
    dynamic: bool = False
    """Whether shapes are dynamic."""
    scope: Scope = Scope.WHOLE
    """Whole or regional."""

    @property
    def label(self) -> str:
        """A few words.

        Example:
            >>> Configuration(mode="max-autotune", dynamic=True).label
            'max-autotune, dynamic, whole'
        """
        return f"{self.mode}, {'dynamic' if self.dynamic else 'static'}, {self.scope.value}"


class StartRecord(Record, frozen=True, kw_only=True):
    """One process, from being spawned to its steady state."""

    start: Start
    """The way of starting."""
    configuration: Configuration | None
    """How it was compiled; None for eager."""
    round: int
    """Number of the round; -1 for a process that prepared something."""
    position: int = 0
    """Place in the order that was drawn for this round."""
    status: Status = Status.OK
    """How it ended."""
    reason: str = ""
    """Why it is not ok."""
    place: str = ""
    """``file:line`` of the user's code that the reason is about, where one is known."""
    first_result_ns: int | None = None
    """From spawning the process to its first result."""
    first_call_ns: int | None = None
    """The first call alone."""
    phases: list[PhaseTime] = []
    """Where ``first_result_ns`` went: exclusive times that do not overlap."""
    unattributed_ns: int = 0
    """What is left of ``first_result_ns`` after all phases."""
    intervals: list[Interval] = []
    """The same on the clock, short stretches joined."""
    instrumentation_ns: int = 0
    """Time that looking at cache keys took; it is in none of the figures above."""
    early_ns: list[int] = []
    """Durations of the calls right after the first, one by one: some are slower than the steady state."""
    steady_ns: float | None = None
    """Median time of a call after that; None where it never became steady."""
    steady_samples_ns: list[float] = []
    """Time of a call in each timed batch."""
    compilations: int = 0
    """Graphs that were compiled or loaded in the first call."""
    recompilations: list[str] = []
    """What was compiled again after the first call, and which guard had failed."""
    caches: list[CacheUse] = []
    """How the caches fared."""
    lookups: list[Lookup] = []
    """Every question to a cache."""
    memory: Memory = Memory()
    """Memory at its peak."""
    notes: list[str] = []
    """Other things to know."""

    @property
    def label(self) -> str:
        """A few words."""
        return self.start.value if self.configuration is None else f"{self.start.value} ({self.configuration.label})"

    @property
    def unattributed_share(self) -> float | None:
        """Share of the time to the first result that no phase accounts for."""
        return self.unattributed_ns / self.first_result_ns if self.first_result_ns else None

    def cache(self, name: CacheName) -> CacheUse:
        """How one cache fared; unused where it was not asked."""
        return next((use for use in self.caches if use.cache is name), CacheUse(cache=name))


class Preparation(Record, frozen=True, kw_only=True):
    """What had to be made once before a way of starting could be used."""

    start: Start
    """The way of starting it is for."""
    configuration: Configuration
    """How it is compiled."""
    duration_ns: int | None
    """Time of the process that made it; None where it failed."""
    size_bytes: int | None = None
    """Size of what was made."""
    status: Status = Status.OK
    """How it ended."""
    reason: str = ""
    """Why it is not ok."""
    place: str = ""
    """``file:line`` of the user's code that the reason is about, where one is known."""


class Unit(enum.StrEnum):
    """What a break-even counts."""

    CALLS = "calls"
    """Calls within one process."""
    STARTS = "starts"
    """Processes that are started."""


class BreakEven(Record, frozen=True, kw_only=True):
    """After how many calls (or starts) one way has cost less in total than another, and stays so."""

    start: Start
    """The way that has to pay."""
    configuration: Configuration
    """How it is compiled."""
    against: Start
    """What it is compared with, compiled in the same way (or eager)."""
    unit: Unit
    """What is counted."""
    count: int | None
    """The number; 1 if it costs less from the first on, None for never."""
    low: int | None = None
    """Lower end of the interval; None for never."""
    high: int | None = None
    """Upper end of the interval; None for never."""
    never: float | None = None
    """Share of the resamples in which it never pays; None where a single process was measured: no interval then."""
    confidence: float = 0.95
    """Confidence of the interval."""
    processes: int = 0
    """Processes of the way that it is made of."""


class CompileCost(Record, frozen=True, kw_only=True):
    """Everything that one ``fuselab compile-cost`` found out; displays itself in a notebook."""

    experiment: str
    """Name of the experiment, or of the user's code."""
    workload: Workload
    """What it is called on."""
    calls: Calls
    """What one call is."""
    environment: Environment
    """Where it was measured."""
    seed: int
    """Seed of the order of processes, and of the inputs."""
    repeats: int
    """Rounds: every way of starting is measured once in each, in an order drawn anew."""
    starts: list[StartRecord] = []
    """Every process that was measured, in the order they ran."""
    preparations: list[Preparation] = []
    """What had to be made before."""
    break_even: list[BreakEven] = []
    """After how many calls or starts which way has paid."""
    stream: StreamSummary | None = None
    """What a stream of shapes cost, where one was given."""
    path: str = ""
    """Directory that all of it was written to."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    def measured(self, start: Start, configuration: Configuration | None = None) -> list[StartRecord]:
        """The processes of one way of starting that ended well, in order."""
        return [
            record
            for record in self.starts
            if record.start is start
            and record.round >= 0
            and record.status is Status.OK
            and (configuration is None or record.configuration in (None, configuration))
        ]

    @property
    def configurations(self) -> list[Configuration]:
        """The configurations that were measured, in order of their first process or preparation."""
        found = [p.configuration for p in self.preparations]
        found += [record.configuration for record in self.starts if record.configuration is not None]
        return list(dict.fromkeys(found))

    @property
    def failures(self) -> list[StartRecord]:
        """Processes that did not end well."""
        return [record for record in self.starts if record.status not in (Status.OK, Status.UNAVAILABLE)]

    def _repr_html_(self) -> str:
        # By name: rendering is the report's, which lies above this room and must not be imported by it.
        html: str = importlib.import_module("fuselab.report.waterfall").html(self)
        return html
