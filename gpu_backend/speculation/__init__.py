"""From logits to tokens: sampling, drafting, and judging drafts.

choosing.py      what a step's rows yield: samples, verdicts on drafts, beams; read this first
sampling.py      one row's settings; uniforms.py one random number for each place of a text
drafting.py      the draft model's cache and proposals; speculative.py propose and verify

Refuses to know how long anything takes.
"""
