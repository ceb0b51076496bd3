"""What this device takes for a step: measured over a grid, corrected in place, kept in a folder.

calibrate.py       a calibration's folder, made or found
grid.py            a grid of steps and its statistics; bench_steps.py steps made by hand
in_situ.py         requests of the calibrator's own, whose steps correct the grid; warm_up.py what goes before
scaled_replays.py  replays beside a calibration, scaled by how fast the machine was meanwhile

Refuses to compare anything with a simulation.
"""
