"""Kernel overrides of the CPU target, where measured to pay."""
