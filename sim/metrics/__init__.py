"""Numbers, and beside each its definition, what it rests on, and what to know before trusting it.

summary.py       from a record to named numbers; read this first
definitions.py   what each number means, with its formula; keys.py what it is called
latencies.py     TTFT, TPOT, ITL, E2E of each request; occupancy.py what was held over time
waste.py         what slots of KV memory were used for; memory_map.py the same at one instant
basis.py         what a run rests on; confidence.py how far that may be off; caveats.py what to know

Refuses to simulate, and to know files and terminals.
"""
