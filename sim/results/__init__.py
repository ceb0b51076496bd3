"""Runs on disk, whole or not at all, and runs beside each other.

run_folder.py    a run is written and read back; read this first
whole_folder.py  a folder appears whole or not at all; writable.py asks beforehand whether it can
environment.py   code, machine, inputs
bench_file.py    the same numbers in the schema of `vllm bench serve`
compare.py       runs side by side: which settings differ, and what that did

Refuses to draw: whoever writes a run may hand in what adds pictures (`sim.report`).
"""
