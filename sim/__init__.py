"""Plan LLM serving by simulation: the pure core, the SimPy body, costs, metrics and the command line."""

from sim.compiled import find_sources_only, is_plain_wanted

if is_plain_wanted():
    find_sources_only(__path__[0])
