"""An executor of the PTX that Triton compiles for sm_80, on numpy: exact, deterministic, and it counts.

It runs one program (CTA) after another, all its threads in lockstep, and refuses every instruction, type,
modifier and operand count that it does not know. It checks each access to global memory against the tensors
of the launch, and that no program reads or writes what another one wrote. What it cannot show: missing
barriers and asynchronous copies that are waited for too late (lockstep hides both), faults of ptxas, and
time.
"""
