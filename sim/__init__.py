"""Plan LLM serving by simulation: the pure core, the SimPy body, costs, metrics and the command line."""
