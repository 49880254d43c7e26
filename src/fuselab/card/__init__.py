"""The kernel card: what one kernel computes, moves, executes and is limited by, and the script that runs it alone.

Pure: text and tables in, data out; ``fuselab.capture`` collects them. ``card.builder`` writes the card's sections,
``card.limiter`` predicts what limits the kernel and judges that by measurements, ``card.repro`` writes ``repro.py``.
"""
