"""Comparing runs: what changed, by how much, and whether that can be told. Pure; the store is read, nothing written."""

from fuselab.comparison.compare import compare_runs, parse_share
from fuselab.comparison.records import Judgement, Pairing, RunsComparison

__all__ = ["Judgement", "Pairing", "RunsComparison", "compare_runs", "parse_share"]
