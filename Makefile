# Everything a person types; each target sets up .venv when needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test test-full lint setup bench-cli bench-recorder bench-report cluster-study soak

study: setup  ## a first study on this machine, from configuration to its page
	$(BIN)/harness run -m experiment=demo
	$(BIN)/harness report demo

test: setup  ## the tests that every change has to pass, as far as they can run on this machine
	$(BIN)/pytest -m "not slow"

test-full: setup  ## every test: also compiled blocks, and the parity of all presets of parallelism
	$(BIN)/pytest

lint: setup  ## format, style, types, and which room may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: .venv/installed  ## only the .venv, with the harness command in it

cluster-study: setup  ## slurm/scale.sh on a real Slurm of four hosts on this machine (root); judged, in .bench/cluster-study.json
	$(BIN)/python tests/cluster/study.py

soak: setup  ## a point killed, hung, cut off and starved of its disk, again and again; judged, in .bench/soak.json
	PYTHONPATH=tests $(BIN)/python tests/soak/soak.py

bench-cli: study  ## how long a person waits for the command line; judged, in .bench/cli.json
	$(BIN)/python -m harness.bench.cli

bench-report: setup  ## how long a report on a large study takes, and how much memory; judged, in .bench/report.json
	$(BIN)/python -m harness.bench.report

bench-recorder: setup  ## what the recorder costs: pairs of launches with and without it; judged, in .bench/recorder.json
	$(BIN)/python -m harness.bench.recorder

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
