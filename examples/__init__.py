"""The trained example, as package data: `tiny-v4/` beside this file."""
