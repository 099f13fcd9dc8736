# Each command does its own set-up. Python 3.11 to 3.13 is looked for; PYTHON=... chooses one.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null \
	&& { echo $$p; break; }; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet
SECONDS ?=
HOST ?=
RENEW ?=
# Of Grafana's packages: not every release of Grafana has them.
GRAFANA ?= 12.4.6

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format bench bench-pipeline bench-update soak dashboards grafana-code lock pi secrets sim clean

help: ## what each command does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## the whole fleet on this machine; `make demo SECONDS=60` ends by itself
	@$(BIN)/python -m earshot demo $(if $(SECONDS),--seconds $(SECONDS))

setup: $(VENV)/.dev ## .venv with everything a developer needs (TensorFlow included: 2 GB)

# Tests wait for programs and brokers more than they compute: four at once suit two cores.
PYTEST := $(BIN)/python -m pytest -q -r fE -p tests.rig.progress -n 4 --dist loadgroup --no-loadscope-reorder

test: $(VENV)/.dev $(VENV)-tflite/.installed ## all tests this machine can run; TESTS=tests/node runs a part
	$(PYTEST) $(TESTS)

test-fast: $(VENV)/.dev ## unit tests alone, in two minutes or less
	$(PYTEST) -m "not costly" $(TESTS)
	@echo "Not covered: tests that start a server or a program, or train a network. 'make test' runs them too."

check: $(VENV)/.dev ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## put the code into the house's form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev bench-pipeline ## timings on this machine, into bench.json and bench-pipeline.json
	$(BIN)/python -m bench.node --out bench.json

bench-pipeline: $(VENV)/.dev ## only the collector's: how much one of them stores (3 minutes)
	$(BIN)/python -m bench.pipeline --out bench-pipeline.json

bench-update: $(VENV)/.dev ## a release to 50 nodes on this machine while they hear (3 minutes)
	$(BIN)/python -m bench.update_fleet --nodes 50 --out bench-update.json

soak: $(VENV)/.dev ## real programs under fault after fault; `make soak MINUTES=30 SEED=1` counts what is lost
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),1) --out soak.json

dashboards: $(VENV)/.dev ## write Grafana's dashboards and alert rules anew
	$(BIN)/python -m collector.grafana

grafana-code: ## Grafana's own packages, by which tests check the dashboards (needs npm; 170 MB)
	npm install --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --silent \
		--prefix .grafana-code @grafana/data@$(GRAFANA) @grafana/schema@$(GRAFANA) react@18.3.1 react-dom@18.3.1 \
		rxjs@7.8.2 typescript@5.9.3

lock: ## resolve requirements/*.txt anew (needs uv)
	requirements/lock.sh

pi: ## on a Raspberry Pi: install or upgrade the node as a service (docs/pi.md)
	@$(if $(filter 0,$(shell id -u)),,sudo) node/install-pi.sh

secrets: $(VENV)/.fleet ## certificates and passwords for docker-compose.yml; HOST=name-of-this-computer, RENEW=1
	@$(BIN)/python -m earshot fleet secrets $(addprefix --host ,$(HOST)) $(if $(RENEW),--renew)

sim: secrets ## three virtual nodes beside the servers of docker-compose.yml
	@for n in 1 2 3; do test -e secrets/nodes/sim-$$n || $(BIN)/python -m earshot fleet enroll sim-$$n \
		--group sim --source "synthetic:fan$$(test $$n != 3 || echo '?fault=bearing&after=600')" \
		--out secrets/nodes/sim-$$n || exit 1; done
	docker compose --profile sim up -d --build

clean: ## remove the virtual environments
	rm -rf $(VENV) $(VENV)-tflite .grafana-code

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "earshot needs Python 3.11, 3.12 or 3.13 and found none: install one (Debian: apt install python3 python3-venv) or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The demo's packages are a subset of the developer's, in the same versions; one .venv grows.
$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the demo needs (once; a minute or two)"
	@test -e $(VENV)/.dev || $(PIP) --require-hashes -r requirements/demo.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# As well a subset: keys, secrets and rollouts from this folder, on a server of their own.
$(VENV)/.fleet: requirements/fleet.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what an operator needs (once; 30 MB)"
	@test -e $(VENV)/.dev -o -e $(VENV)/.demo || $(PIP) --require-hashes -r requirements/fleet.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing everything for development (once; some minutes)"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# tflite-runtime needs numpy 1 and Python 3.11: an environment of its own, and none on newer Pythons.
$(VENV)-tflite/.installed: requirements/node-tflite.txt | $(VENV)/bin/python
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(BIN)/python -m venv $(VENV)-tflite \
		&& $(VENV)-tflite/bin/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes -r requirements/node-tflite.txt; \
	else \
		echo "tflite-runtime has no wheel for this Python: its tests are skipped"; mkdir -p $(VENV)-tflite; \
	fi
	@touch $@
