"""Where simulated time passes: requests arrive, find a replica, wait, and are served step by step.

cluster.py       a fleet serves a workload; read this first. `Body` is what carries plans out
driver.py        one replica's steps in time; links.py the link to its host
router.py        which replica; content.py what prompts share; beam_search.py how beams change
executor.py      the simulated body: what a plan takes; victim_cost.py whether swap or recompute is cheaper

The only room with SimPy. Refuses to decide anything that `sim.core` decides, to price a step, and to sum up.
"""
