"""What `tools/bench` measures, with what, and against what."""
