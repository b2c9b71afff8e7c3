"""Record the golden vectors from transformers: `make golden`, or PYTHONPATH=tests python this file.

Needs torch and transformers 5.23. Overwrites `index.json` and the `.npz` files beside itself.
"""

import json
from dataclasses import asdict

import numpy as np
import torch
import transformers
from oracle.cases import CASES
from oracle.live import draw

from support.golden import FOLDER, INDEX, Golden
from support.random_models import digest

NAMES = (
    "window_of_two",
    "csa_2_top_1",
    "ratio_3_and_5",
    "flash",
    "pro",
    "all_hash",
    "odd_sides",
    "several_fp8_tiles",
    "dominating_sinks",
    "saved_names",
)


def main() -> None:
    """Draw each case, write its logits, then the index."""
    models = []
    for case in (case for case in CASES if case.name in NAMES):
        drawn = draw(case)
        golden = Golden(
            name=case.name,
            config=case.config,
            seed=drawn.seed,
            codecs=case.codecs,
            sink_shift=case.sink_shift,
            scheme=case.scheme,
            shards=case.shards,
            sha256=digest(drawn.tensors),
        )
        models.append(asdict(golden))
        path = FOLDER / f"{case.name}.npz"
        np.savez_compressed(path, ids=np.array(drawn.ids, np.int32), logits=drawn.logits)
        print(f"{path.name}: {path.stat().st_size} bytes, smallest gaps {tuple(drawn.gaps)}")
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    INDEX.write_text(json.dumps({"recorded_with": versions, "models": models}, indent=1) + "\n")


if __name__ == "__main__":
    main()
