# `make help` lists what there is to make. Build products lie outside the clone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CARGO_TARGET_DIR ?= $(HOME)/.cache/sds/target
export PATH := $(PATH):$(HOME)/.cargo/bin

DATA ?= data
SEED ?= 1
SEEDS ?= 500
LONG_SEEDS ?= 20000
RUN_ARGS ?=
PYTEST_ARGS ?=

PY := .venv/bin/python

.PHONY: help run test lint fmt sim sims sim-long bench set-up-run set-up-test cargo-test pytest clean

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

.PHONY: fuzz
fuzz: SECONDS ?= 60
fuzz: ## runs each fuzz target for SECONDS=n (fuzz/README.md says what they are and need)
	@targets=$$(cargo fuzz list); found=; for target in $$targets; do \
		deploy/setup/step.sh "fuzz $$target" cargo fuzz run --sanitizer none $$target -- \
			-max_total_time=$(SECONDS) -len_control=0 -max_len=2048 -verbosity=0 || found="$$found $$target"; \
	done; [ -z "$$found" ] || { echo "something was found by:$$found" >&2; exit 1; }

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

clean: ## removes the virtual environment and caches; data folders stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache sds/*.so
