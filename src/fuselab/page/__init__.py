"""The report as one page: a file that opens from disk, offline, in any browser, and can be mailed.

::

    model      runs as they stand in the store, indexed; what charts share: groups, colours, words
    build      the page from its sections, the template and the panes; written whole
    verdict    the answer in a sentence; is it faster, why, what is left
    speedup, roofline, scaling, samples, traffic_chart, cost
               the charts, one file a subject, drawn with ``drawing``
    graphs, traffic
               captured graphs read as text: tensors, and what each way of running moves
    security   the Content-Security-Policy by the hashes of what is inline; redact: what ``--redact`` takes out
    notebook   the same page in a cell's output, with a static picture beside it

The charts are SVG that Python writes, not specifications that a runtime draws. Vega-Lite by way of Altair and
vl-convert was tried first. Its imports take 1.5 s of processor time, and each chart 0.13 s and 36 KB in marks that name
colours: the some sixty charts of four experiments (two widths, two directions) would take 9 s and 2 MB of the 3 MB
that the page may have, once more for every run. Vega's runtime instead needs ``eval`` or an interpreter, and 800 KB.
What is drawn here takes a millisecond a chart, its marks have classes, so that light and dark, hover and focus are a
style sheet's matter, its text is text, and the picture without scripts is the same one.

Nothing here imports torch. Every field of a run is text from elsewhere: Jinja2 escapes it in templates, ``drawing`` in
pictures, and the policy lets nothing else run.
"""

from __future__ import annotations
