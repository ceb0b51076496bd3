"""Readers of public request traces, one format a file."""
