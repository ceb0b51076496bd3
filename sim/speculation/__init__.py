"""Speculative decoding without tokens: who drafts how much, at what cost, and how much of it is kept.

speculator.py       drafts and acceptance of a replica, step by step; what drafting costs
acceptance.py       laws of acceptance; acceptance_file.py a recorded one
theory.py           closed forms of Leviathan et al.

Refuses to know token texts, and when anything happens.
"""
