# Two commands for a newcomer: `make run` and `make test`. Nothing is needed but Python 3.11+ with venv.
#
#   make run [GRPC_PORT=8033 REST_PORT=8008 METRICS_PORT=2112 DATA_DIR=data CAPACITY=bytes]
#   make fleet [PODS=3 DATA_DIR=data BASE_PORT=port CAPACITY=bytes ETCD=url]   many of them, and an etcd
#   make test    everything that must hold, `make check` inside it; make test-fleet: whole fleets only
#   make simulate [SEEDS=100 FIRST_SEED=0 PLANT=name]   whole fleets with faults in virtual time
#   make bench   the figures of the README, measured on this machine; bench-fleet: those of a fleet

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Wheels only (no compiler needed), exactly the pinned ones (hashes are checked).
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes
PROJECT := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

GRPC_PORT ?= 8033
REST_PORT ?= 8008
METRICS_PORT ?= 2112
DATA_DIR ?= data
CAPACITY ?= 0
PODS ?= 3
SEEDS ?= 100
FIRST_SEED ?= 0

.PHONY: run fleet simulate test test-fleet check bench bench-fleet format protos docs pins clean

run: $(VENV)/.run
	@$(BIN)/python examples/quickstart.py --grpc-port $(GRPC_PORT) --rest-port $(REST_PORT) \
		--metrics-port $(METRICS_PORT) --data-dir $(DATA_DIR) --capacity-bytes $(CAPACITY)

fleet: $(VENV)/.fleet
	@$(BIN)/python -m modelmesh up --pods $(PODS) --data-dir $(DATA_DIR) --capacity $(CAPACITY) \
		$(if $(BASE_PORT),--base-port $(BASE_PORT)) $(if $(ETCD),--etcd $(ETCD))

test: $(VENV)/.test check
	$(BIN)/python -m pytest tests -n 3 --dist loadfile

# Real daemons, a real etcd, real sockets, and 500 simulated fleets: a part of `make test`.
test-fleet: $(VENV)/.test
	$(BIN)/python -m pytest tests/fleet -n 3 --dist loadfile

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python -m modelmesh.cli.documents --check

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

bench-fleet: $(VENV)/.test
	$(BIN)/python -m benchmarks.fleet

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

simulate: $(VENV)/.run
	@$(BIN)/python -m modelmesh simulate --seeds $(SEEDS) --first-seed $(FIRST_SEED) \
		$(if $(PLANT),--plant $(PLANT))

protos: $(VENV)/.test
	$(BIN)/python protos/generate.py

docs: $(VENV)/.test
	$(BIN)/python -m modelmesh.cli.documents

# New pins for what pyproject.toml asks for (needs uv: `pip install uv`).
PIN := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make pins" pyproject.toml requirements/build.in
pins:
	$(PIN) -o requirements/run.txt
	$(PIN) --extra test -o requirements/test.txt
	$(PIN) --extra fleet -c requirements/run.txt -o requirements/fleet.txt
	uv pip compile --quiet --no-deps --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make pins" requirements/witness.in -o requirements/witness.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -r requirements/run.txt
	$(PROJECT)
	@touch $@

$(VENV)/.fleet: requirements/fleet.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -r requirements/fleet.txt
	$(PROJECT)
	@touch $@ $(VENV)/.run

# The witness exists as a source package only (pure Python; setuptools is in test.txt).
$(VENV)/.test: requirements/test.txt requirements/witness.txt pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--no-build-isolation --use-pep517 -r requirements/witness.txt
	$(PROJECT)
	@touch $@ $(VENV)/.run
