# Each target says what it does: `make help`. README gives the line that does the same without make.
.DEFAULT_GOAL := help
.PHONY: help demo serve test check lint types layout tables env bench abuse scaling isolation claims costs kill crashes workers rolling charges clean

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3.14 || command -v python3)
BIN := .venv/bin
JOBS ?= 2

help:  ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Callsheet needs Python 3.11 or newer; $(PYTHON) is older. Name another one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python has no venv or ensurepip. On Debian and Ubuntu install the package python3-venv, then run make again."; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/made pyproject.toml
	@echo "Installing Callsheet into .venv ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/installed-test: .venv/made pyproject.toml
	@echo "Installing Callsheet and its test tools into .venv ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch .venv/installed $@

demo: .venv/installed  ## one job to each provider, against a sandbox, without keys; ONCE=1 ends by itself
	@$(BIN)/callsheet demo $(if $(ONCE),--once)

serve: .venv/installed  ## the service on http://127.0.0.1:8080
	@$(BIN)/callsheet serve

test: .venv/installed-test  ## all tests, in their shorter forms
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

check: lint types layout  ## what must hold at every commit: lint, types, layout

lint: .venv/installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/installed-test
	@$(BIN)/mypy

layout: .venv/installed-test
	@$(BIN)/pytest -q tests/test_layout.py

tables: .venv/installed-test  ## the operation table of service/providers/README.md, made from the code
	@$(BIN)/python -m tests.providers.operation_table --write

env: .venv/installed-test  ## deploy/.env.example, made from the settings
	@$(BIN)/python -m tests.deploy.env_example --write

bench: .venv/installed-test  ## ratios to bare baselines, in one run
	@$(BIN)/python -m tests.bench $(ARGS)

abuse: .venv/installed-test  ## a healthy client beside silent, dripping and oversized ones, as ratios
	@$(BIN)/python -m tests.bench.abuse $(ARGS)

scaling: .venv/installed-test  ## PostgreSQL: four workers to one, statements and processor time per delivery
	@$(BIN)/python -W ignore -m tests.bench.scaling $(ARGS)

isolation: .venv/installed-test  ## PostgreSQL: a tenant beside a million due rows of a dead endpoint
	@$(BIN)/python -W ignore -m tests.bench.isolation $(ARGS)

claims: .venv/installed-test  ## PostgreSQL: the time of a claim from 10,000 to 5,000,000 pending rows
	@$(BIN)/python -W ignore -m tests.bench.claims $(ARGS)

costs: .venv/installed-test  ## PostgreSQL: what a job, a callback and a delivery cost in disk, WAL and processor time
	@$(BIN)/python -W ignore -m tests.bench.costs $(ARGS)

kill: .venv/installed-test  ## the long kill test: CYCLES (200) SIGKILLs under load
	@CALLSHEET_KILL_CYCLES=$(or $(CYCLES),200) $(BIN)/pytest -q -s tests/kill/test_kill.py tests/kill/test_stalled.py $(ARGS)

crashes: .venv/installed-test  ## three nodes whose database crashes under load, CYCLES (50) times
	@CALLSHEET_CRASH_CYCLES=$(or $(CYCLES),50) $(BIN)/pytest -q -s tests/kill/test_database_crash.py $(ARGS)

workers: .venv/installed-test  ## four workers killed and started at random under load, for SECONDS (300)
	@CALLSHEET_WORKERS_S=$(or $(SECONDS),300) $(BIN)/pytest -q -s tests/kill/test_workers_killed.py $(ARGS)

rolling: .venv/installed-test  ## newer code takes the place of older code under load, node by node, TIMES (20) times
	@CALLSHEET_ROLLING_TIMES=$(or $(TIMES),20) $(BIN)/pytest -q -s tests/kill/test_rolling.py $(ARGS)

charges: .venv/installed-test  ## every provider with lost replies, SUBMITS (1000) to each: charges per intent
	@CALLSHEET_CHARGES_JOBS=$(or $(SUBMITS),1000) $(BIN)/pytest -q -s tests/charges/test_charges.py $(ARGS)

clean:  ## remove the environment and everything made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis
