"""The engine's ops, one a file: each a plain-torch twin, a Triton kernel and an unfused form."""
