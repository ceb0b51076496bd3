"""Keys and values on a device and on its host, and the block tables that kernels read.

kv_storage.py    the caches of one replica, and how blocks move; block_tables.py tables as rows of one matrix
fixed_blocks.py  caches without a scheduler, for measurements of a model alone

Refuses to decide which block is whose: `sim.core` does.
"""
