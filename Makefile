# make demo     compile the trained example for several chips, and stream text from it on this one
# make test     the tests; needs no PyTorch
# make slow     those that take minutes or want an emulator (they say so if it is missing)
# make oracle   the same model against Hugging Face transformers, live
# make chip-tools   emulators for the tests of foreign chips, from Debian (needs root)
# make ascend-tools   LLVM 19's tools, which run lowered Ascend kernels here (Debian; needs root)
# make lint, make types, make golden (record the golden vectors again), make clean
#
# Everything lives in .venv and build/; stamp files make the second run fast. Where packages come
# from is pip's own configuration.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/stamp

# Two at a time, each a whole file: kernels are compiled on one core for the most part.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

DEMO := build/tiny-v4
CHIPS := cpu cpu-aarch64 cpu-riscv64
PROMPT := 'The :mod:`json` module provides'
SOURCES := compiler.py $(shell find codegen frontend ir passes runtime targets examples -name '*.py' -o -name '*.[ch]' -o -path '*checkpoint/*')

.PHONY: demo test slow oracle chip-tools ascend-tools lint types golden clean

demo: $(CHIPS:%=$(DEMO)-%/manifest.json)
	$(BIN)/firstlight run $(DEMO)-cpu --prompt $(PROMPT) -n 48

$(DEMO)-%/manifest.json: $(STAMP)/compile $(SOURCES)
	$(BIN)/firstlight compile examples/tiny-v4/checkpoint --target $* -o $(@D) --force

test: $(STAMP)/test
	$(PYTEST) -m 'not slow and not chip' --ignore=tests/oracle

slow: $(STAMP)/test
	$(PYTEST) -m 'slow or chip' --ignore=tests/oracle -rs

oracle: $(STAMP)/oracle
	OMP_NUM_THREADS=1 $(PYTEST) tests/oracle

# qemu-user runs programs of other CPUs; what is there already is left alone.
chip-tools:
	@for cpu in aarch64 riscv64; do \
	    command -v qemu-$$cpu || command -v qemu-$$cpu-static || missing=yes; done; \
	[ -z "$$missing" ] || { apt-get update && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y qemu-user; }

# What is there already is left alone. The chip's own compiler is the extra [ascend].
ascend-tools:
	@for tool in mlir-opt-19 mlir-translate-19 clang++-19 ld; do \
	    command -v $$tool || missing=yes; done; \
	[ -z "$$missing" ] || { apt-get update && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y --no-install-recommends mlir-19-tools clang-19; }

lint: $(STAMP)/test
	$(BIN)/ruff check .

types: $(STAMP)/test
	@mkdir -p .typing && ln -sfn .. .typing/firstlight
	MYPYPATH=.typing $(BIN)/mypy

golden: $(STAMP)/oracle
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/golden/make_golden.py

clean:
	rm -rf $(VENV) build .typing

$(STAMP)/venv:
	$(PYTHON) -m venv $(VENV) || { echo "needs Python 3.11 or newer with venv:" \
	    "apt-get install python3-venv, or make PYTHON=..."; rm -rf $(VENV); exit 1; }
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/compile: $(STAMP)/venv pyproject.toml
	$(PIP) install -q -e '.[compile]'
	@touch $@

$(STAMP)/test: $(STAMP)/compile
	$(PIP) install -q -e '.[compile,onnx,opencl,cuda,test]'
	@touch $@

$(STAMP)/oracle: $(STAMP)/test
	$(PIP) install -q -e '.[compile,onnx,opencl,cuda,test,oracle]'
	@touch $@
