"""Questions that take many simulations: which points, simulated where, and what they add up to.

sweep.py         a sweep from its file to its table; read this first
axes.py          values of one key, ranges; points.py how axes become points; sampling.py drawn ones
point_run.py     one point, simulated: a row, under a key of its content
row_store.py     rows on disk: each whole or not at all, found again by key
workers.py       rows from one process, or from a pool that outlives its workers
intervals.py     from replications to a mean and its interval; tables.py what a sweep leaves

Refuses to simulate by itself (`sim.simulation`), to know experiment files (`sim.config`), and to print.
"""
