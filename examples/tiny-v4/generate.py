"""Continue a prompt with a compiled artifact: python generate.py ARTIFACT "import os"."""

import sys

from firstlight.runtime import load

directory, prompt = sys.argv[1:]
with load(directory) as model:
    text = model.tokenizer.stream()
    for token in model.session().generate(model.tokenizer.encode(prompt), max_new_tokens=48):
        print(text.push(token), end="", flush=True)
    print(text.finish())
