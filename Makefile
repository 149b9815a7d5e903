# `make help` lists what there is to make. Build products lie outside the clone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CARGO_TARGET_DIR ?= $(HOME)/.cache/sds/target
export PATH := $(HOME)/.cache/sds/tools/bin:$(PATH):$(HOME)/.cargo/bin

DATA ?= data
SEED ?= 1
SEEDS ?= 1000
LONG_SEEDS ?= 10000
CUTS ?= 1000
ROUNDS ?= 1000
FUZZ_SECONDS ?= 600
FUZZ_JOBS ?= 1
RUN_ARGS ?=
PYTEST_ARGS ?=

PY := .venv/bin/python

.PHONY: help run test lint fmt sim sims sim-long crash-long power-long
.PHONY: fuzz bench set-up-run set-up-test set-up-fuzz cargo-test pytest clean

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: set-up-run ## installs what is missing, builds, serves the embedded default from ./data (DATA=dir, RUN_ARGS=...)
	@exec $(PY) -m sds.cli serve --data $(DATA) \
		--rest 127.0.0.1:8080 --nvme 127.0.0.1:4420 --iscsi 127.0.0.1:3260 $(RUN_ARGS)

test: ## installs what the tests need and runs them all; pytest comes last
	@deploy/setup/step.sh "set-up" $(MAKE) set-up-test
	@deploy/setup/step.sh "lint" $(MAKE) lint
	@deploy/setup/step.sh "cargo test" $(MAKE) cargo-test
	@deploy/setup/step.sh "simulator, $(SEEDS) seeds" $(MAKE) sims
	@deploy/setup/step.sh "fuzz, 10 s each" $(MAKE) fuzz FUZZ_SECONDS=10 FUZZ_JOBS=2
	@$(MAKE) pytest

lint: ## ruff, mypy, the tidy test, rustfmt and clippy; warnings are errors
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	$(PY) -m pytest -q tests/test_tidy.py
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fmt: ## formats Python and Rust
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	cargo fmt --all

cargo-test:
	cargo test --workspace --locked

pytest: ## the Python and real-client tests alone (PYTEST_ARGS="-k nvme")
	$(PY) -m pytest $(PYTEST_ARGS)

sim: ## replays one world of the simulator (SEED=n)
	cargo run --release --locked -p sds-sim -- --seeds 1 --from $(SEED)

sims:
	cargo run --release --locked -p sds-sim -- --seeds $(SEEDS) --from 1 --coverage

sim-long: ## many worlds from a random first seed, which it prints (LONG_SEEDS=n)
	cargo run --release --locked -p sds-sim -- --seeds $(LONG_SEEDS) --from $$(( (RANDOM << 15 | RANDOM) * 1000 ))

fuzz: set-up-fuzz ## runs each fuzz target for ten minutes (FUZZ_SECONDS=n, FUZZ_JOBS=n at a time; fuzz/README.md)
	python3 fuzz/run.py --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS)

crash-long: ## a thousand times kill -9 under load over both protocols (ROUNDS=n)
	$(PY) -m tests.durability.storm --rounds $(ROUNDS)

power-long: ## a thousand power cuts of the real binary (CUTS=n SEED=n)
	SDS_CUTS=$(CUTS) SDS_SEED=$(SEED) $(PY) -m pytest tests/durability/test_power_cut.py -s

bench: set-up-run ## measures this machine's rates and prints a table
	$(PY) -m bench

set-up-run:
	@deploy/setup/rust.sh
	@deploy/setup/apt.sh run
	@deploy/setup/venv.sh run

set-up-test:
	@deploy/setup/rust.sh
	@deploy/setup/apt.sh test
	@deploy/setup/venv.sh test

set-up-fuzz:
	@deploy/setup/rust.sh
	@deploy/setup/apt.sh test
	@deploy/setup/cargo_fuzz.sh

clean: ## removes the virtual environment and caches; data folders stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache sds/*.so
