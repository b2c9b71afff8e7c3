"""A checkpoint without a tokenizer as GGUF, by the converter of a llama.cpp source folder.

    python benchmarks/llama_gguf.py LLAMA_SOURCE CHECKPOINT OUT.gguf [--outtype q8_0]

The benchmark's random model has no tokenizer, which the converter insists on and llama-bench does
not need; its `__pad` tensors, which align the others, are left out. Dense weights become
`--outtype`; experts stay MXFP4. Needs the extra [oracle].
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """The command line."""
    source, checkpoint, out, *options = sys.argv[1:]
    folder = Path(source).resolve()
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    from conversion.deepseek import DeepseekV4Model  # type: ignore[import-not-found]

    if not (Path(checkpoint) / "tokenizer.json").is_file():
        def set_vocab(self: DeepseekV4Model) -> None:
            self._set_vocab_none()
            self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])    # it counts no tokens

        DeepseekV4Model.set_vocab = set_vocab
    index = DeepseekV4Model.index_tensors
    DeepseekV4Model.index_tensors = lambda self, *args, **names: {
        name: tensor for name, tensor in index(self, *args, **names).items()
        if not name.startswith("__pad")}
    sys.argv = [str(folder / "convert_hf_to_gguf.py"), checkpoint, "--outfile", out,
                *(options or ["--outtype", "q8_0"])]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
