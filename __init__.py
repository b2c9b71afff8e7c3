"""firstlight: an ahead-of-time compiler for DeepSeek-V4, from a checkpoint to tokens.

Importing the package loads nothing else: `firstlight.runtime` runs artifacts, the other packages
make them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("firstlight")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
