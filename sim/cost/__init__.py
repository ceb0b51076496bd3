"""How long a step takes on a given device, and what moving blocks takes.

cost_model.py    what is asked of step times; step_time.py the default: added up from the kernels of a step
kernels.py       which kernels one step launches; curves.py what each takes; roofline.py the simpler model
model.py, hardware.py, memory.py   shapes and figures; block_moves.py, host_traffic.py moves of blocks
measured.py, calibration.py        measured times; fitting.py, step_fitting.py what is fitted to them
step_times.py    times that an experiment file knows itself

Refuses to know who is in a batch and why, and when anything happens.
"""
