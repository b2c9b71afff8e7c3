"""Chips as plug-ins: the registry."""
