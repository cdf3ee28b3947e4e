# Every target sets up what it needs by itself, into .venv, and only once.

PYTHON ?= python3
BIN := .venv/bin
# What running Interlock needs, and what working on it needs: every package pinned by version and hash.
RUN := .venv/.run-is-ready
DEV := .venv/.dev-is-ready
LOCK := --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links --no-emit-options --extra embedded

.DEFAULT_GOAL := help
.PHONY: help setup dev demo bench test check format proto schema openapi soak lock

help: ## lists these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) ## makes the virtual environment .venv with everything to run, test and change Interlock

dev: $(RUN) ## runs Redis, engine and sidecar on this machine, and prints a key to begin with; sets up what it needs
	@$(BIN)/interlock dev $(DEV_OPTIONS)

demo: $(RUN) ## plays the main job: a real agent, a real signed tool, a real Redis (under two minutes, set-up included)
	@$(BIN)/python demo/play.py

bench: $(RUN) ## measures Interlock beside nginx and beside no proxy at all (needs wrk; under three minutes)
	@$(BIN)/python -m bench $(BENCH)

test: $(DEV) ## runs all tests, on as many cores as there are
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST)

check: $(DEV) ## linters, formatting, types, and whether the generated code is fresh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy bench
	scripts/proto.sh --check

format: $(DEV) ## puts the code into the shape that `make check` asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: $(DEV) ## writes the code that is generated from proto/**/*.proto
	scripts/proto.sh

schema: $(DEV) ## writes the JSON schema of files of tools and policies, deploy/manifest.schema.json
	$(BIN)/interlock apply --schema > deploy/manifest.schema.json

openapi: $(DEV) ## writes the OpenAPI document of the REST API, deploy/openapi.json
	$(BIN)/interlock openapi > deploy/openapi.json

soak: $(DEV) ## runs the tests that take long
	$(BIN)/pytest -m soak -s tests/soak

lock: $(DEV) ## pins the newest versions that pyproject.toml allows
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile $(LOCK) --upgrade \
		-o requirements.lock pyproject.toml requirements.in
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile $(LOCK) --upgrade \
		--extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml requirements.in

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Interlock needs Python 3.11 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
		|| { echo "Python cannot make virtual environments here; on Debian: apt install python3-venv" >&2; exit 1; }

$(RUN): $(BIN)/pip requirements.lock pyproject.toml
	@echo "Setting up .venv ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): $(RUN) requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
