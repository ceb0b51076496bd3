"""How the shipped draft/target pair was made and measured: `python -m gpu_backend.training`."""
