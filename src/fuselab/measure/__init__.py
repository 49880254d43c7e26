"""Measuring: the correctness gate, the clocks, rounds of a group, statistics and verdicts.

``distributions``, ``statistics``, ``sequential`` and ``verdicts`` are pure and import no torch, so that a report can be
made without it; everything else in this room does. Nothing is imported here.
"""
