"""The conformance kit: what a target promises, held against what it does.

>>> from firstlight.targets.conform import LEVELS
>>> LEVELS
('emit', 'build', 'run', 'model')
"""

from firstlight.targets.conform.kit import conform
from firstlight.targets.conform.matrix import matrix
from firstlight.targets.conform.report import LEVELS, Report, read_report, table

__all__ = ["LEVELS", "Report", "conform", "matrix", "read_report", "table"]
