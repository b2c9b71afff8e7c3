"""Checkpoints in, IR out: reading, tracing, and the model definitions."""
