"""Holds launcher.c, the small C file every CPU code object is linked with."""
