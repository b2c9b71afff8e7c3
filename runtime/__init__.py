"""Loads artifacts and runs them; needs numpy, and nothing of the compiler."""
