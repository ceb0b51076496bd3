"""Experiment files: YAML to a checked, frozen `Experiment`, with all errors of a file at once.

loading.py       the way of a file, from text to experiment; read this first
yaml_source.py   YAML that knows the line and column of every value; overrides.py changes one
schema.py        the sections of a file, and files of their own for the larger ones
value_types.py   durations, sizes, counts; paths.py
checks.py        whether the parts fit together; room.py, parallelism.py, kinds.py, sizes.py,
                 speculation_checks.py
own.py           policies of the user's own, own_reading.py finds them, roles.py what they stand for
engine.py        sections to the core's settings
catalog.py       models and hardware, ours or a file's; hf.py, hardware.py, curves.py
errors.py        what is wrong, where, and what was perhaps meant
"""

from sim.config.loading import Experiment, json_schema, load_experiment

__all__ = ["Experiment", "json_schema", "load_experiment"]
