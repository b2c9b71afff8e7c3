"""How code is loaded and started, one file per driver API."""
