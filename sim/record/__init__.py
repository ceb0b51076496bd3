"""What happened in a run, as integers, and the tables that are made of it.

recorder.py      written to while a fleet runs; builder.py makes a record of it
run_record.py    the tables: requests, steps, tokens; column_files.py keeps them on disk
plan_log.py      every decision of a replay, a line a step

Refuses to know what a number means, and where a run is kept.
"""
