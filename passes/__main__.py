"""Replay passes on a module's text: ``python -m firstlight.passes before.ir fuse-compressor``."""

import sys
from pathlib import Path

from firstlight.ir.parser import parse
from firstlight.passes import PIPELINE, run_pipeline
from firstlight.runtime.errors import FirstlightError


def main(argv: list[str]) -> int:
    """Print the module after the pipeline; 1 after an error, 2 for wrong arguments."""
    if len(argv) not in (1, 2):
        print("usage: python -m firstlight.passes MODULE.ir [PIPELINE]", file=sys.stderr)
        return 2
    try:
        module = parse(Path(argv[0]).read_text(), argv[0])
        print(run_pipeline(module, argv[1] if len(argv) == 2 else PIPELINE), end="")
    except FirstlightError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
