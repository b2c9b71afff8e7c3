# make demo     compile the trained example for this machine and stream text from it
# make test     the whole test suite; needs no PyTorch
# make oracle   the same model against Hugging Face transformers, live
# make chip-tools   emulators for the tests of foreign chips, from Debian (needs root)
# make lint, make types, make golden (record the golden vectors again), make clean
#
# Everything lives in .venv and build/; stamp files make the second run fast. Where packages come
# from is pip's own configuration.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/stamp

DEMO := build/tiny-v4-cpu
PROMPT := 'The :mod:`json` module provides'
SOURCES := compiler.py $(shell find codegen frontend ir passes runtime targets examples -name '*.py' -o -name '*.[ch]' -o -path '*checkpoint/*')

.PHONY: demo test oracle chip-tools lint types golden clean

demo: $(DEMO)/manifest.json
	$(BIN)/firstlight run $(DEMO) --prompt $(PROMPT) -n 48

$(DEMO)/manifest.json: $(STAMP)/compile $(SOURCES)
	$(BIN)/firstlight compile examples/tiny-v4/checkpoint --target cpu -o $(DEMO) --force

test: $(STAMP)/test
	$(BIN)/python -m pytest -q --ignore=tests/oracle

oracle: $(STAMP)/oracle
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/oracle

# qemu-user runs programs of other CPUs; what is there already is left alone.
chip-tools:
	@for cpu in aarch64 riscv64; do \
	    command -v qemu-$$cpu || command -v qemu-$$cpu-static || missing=yes; done; \
	[ -z "$$missing" ] || { apt-get update && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y qemu-user; }

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
	$(PIP) install -q -e '.[compile,onnx,test]'
	@touch $@

$(STAMP)/oracle: $(STAMP)/test
	$(PIP) install -q -e '.[compile,onnx,test,oracle]'
	@touch $@
