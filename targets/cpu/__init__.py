"""The CPU family: x86-64 by feature level."""
