"""Pure scheduling and memory decisions, shared by the simulator and the real engine; read engine.py first."""
