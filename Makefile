# One environment, .venv, made by `make setup`; every other target makes it first and finds it made afterwards.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TESTS := $(wildcard tests/unit tests/docs tests/browser tests/ray tests/chaos)

# `make bench` runs the quick form; `make bench QUICK=` the whole one. Benchmarks on real images run where they are given:
# make bench PACS=pacs.zip EMOJI=emoji.zip WEIGHTS=folder-of-a-backbone
QUICK ?= --quick
PACS ?=
EMOJI ?=
WEIGHTS ?=
ON_IMAGES := pacs pacs_study emoji
WITHOUT := $(filter-out $(ON_IMAGES) staged study uem_cost uem_tables bank_peers dude_cost dude_price made_index closed_loop search_filter search_build search_growth search_child search_peers,$(basename $(notdir $(wildcard benchmarks/*.py))))

.PHONY: setup demo test lint bench chaos lock
.DEFAULT_GOAL := setup

setup: $(READY)
	@echo "ready: $(BIN)/ucdr --help"

# torch comes first and by pip: pip's own configuration may offer a CPU build that uv does not see, and an
# unpinned torch brings gigabytes of CUDA packages.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: $(PYTHON) is missing or older than 3.11; run: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make environments; install its venv package (Debian: python3-venv)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv || echo "no uv; going on with pip"
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.lock)"
	{ test -x $(BIN)/uv && VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -r requirements.lock; } \
		|| { echo "going on with pip"; $(BIN)/pip install --quiet -r requirements.lock; }
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	$(BIN)/ucdr demo

test: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not campaign" $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@test -z "$(PACS)$(EMOJI)" -o -n "$(WEIGHTS)" || { \
		echo "error: PACS and EMOJI need WEIGHTS=folder-of-a-backbone" >&2; exit 2; }
	@mkdir -p build/bench
	@set -e; for name in $(WITHOUT); do \
		echo "benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py $(QUICK) --json build/bench/$$name.json; done
ifneq ($(PACS),)
	$(BIN)/python benchmarks/pacs.py $(QUICK) --data $(PACS) --weights $(WEIGHTS) \
		--work build/bench/pacs --json build/bench/pacs.json
	$(BIN)/python benchmarks/pacs_study.py $(QUICK) --data $(PACS) --weights $(dir $(patsubst %/,%,$(WEIGHTS))) \
		--work build/bench/pacs_study --json build/bench/pacs_study.json
endif
ifneq ($(EMOJI),)
	$(BIN)/python benchmarks/emoji.py $(QUICK) --data $(EMOJI) --weights $(WEIGHTS) \
		--work build/bench/emoji --json build/bench/emoji.json
endif
	@echo "figures: build/bench"

chaos: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --timeout=0 tests/chaos

# Maintainers: solve pyproject.toml anew. The find-links of pip's configuration, if any, are used but not written down.
lock: $(READY)
	LINKS=$$($(BIN)/pip config list | sed -n "s/.*find-links='\(.*\)'/\1/p" | head -1); \
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 $${LINKS:+--find-links $$LINKS} \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		| sed 's/+cpu//' > requirements.lock.tmp && mv requirements.lock.tmp requirements.lock
