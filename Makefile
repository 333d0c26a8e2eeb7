# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs by itself (scripts/bootstrap) and may be the first one that you run.

SHELL := /bin/bash
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest
# Most tests with packets wait for packets: two at once take half the time. A file stays together, for its lab.
SIDE_BY_SIDE := -n 2 --dist loadfile
BENCH_ARGS ?=
TEST_ARGS ?=

.PHONY: help demo test test-long test-runtimes lint format bench lock bootstrap clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo:  ## a VPC in a box, two nodes, pods with VPC addresses, real packets (root, under a minute)
	@[ "$$(id -u)" = 0 ] || { echo "make demo: cannot build network namespaces: run it as root (sudo make demo)" >&2; exit 1; }
	@scripts/bootstrap demo
	@$(VENV)/vpccni lab demo

test: lint  ## linters, types, import contracts and every test that is not marked long (root for the real packets)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not long and not runtimes" $(TEST_ARGS)

test-long: lint  ## everything, also what takes minutes
	$(PYTEST) -m "not runtimes" $(TEST_ARGS)

test-runtimes:  ## containerd, podman, libcni and the reference plugins call the installed plugin (root, Debian)
	@scripts/runtimes
	$(PYTEST) -m runtimes tests/runtimes $(TEST_ARGS)

lint: bootstrap  ## ruff, mypy --strict, import contracts
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo

format: bootstrap  ## rewrite the sources as `make lint` wants them
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

bench: bootstrap  ## ADD from exec to result against its floor (root); see docs/bench.md
	@[ "$$(id -u)" = 0 ] || { echo "make bench: cannot build network namespaces: run it as root" >&2; exit 1; }
	@$(VENV)/python -m bench $(BENCH_ARGS)

lock: bootstrap  ## refresh requirements.lock from pyproject.toml
	@scripts/lock

bootstrap:
	@scripts/bootstrap test

clean:  ## remove what was built, keep .venv
	@$(MAKE) --silent -C relay clean
	rm -rf build bench/build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
