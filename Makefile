PYTHON ?= python3.11
BIN := .venv/bin
PROFILE ?= local
.DEFAULT_GOAL := help

.PHONY: help setup demo beats dashboard browser up down test test-unit test-streaming test-integration test-browser test-long lint schema docs lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: .venv/.installed ## a locked environment in .venv, Java 17, the pinned jars, the pages: everything that is missing
	@$(BIN)/lakehouse setup
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory dashboard || \
		echo "the pages at / are not built: all else works; try again with: make dashboard"; \
	else echo "npm is missing: all works but the pages at /; install Node.js 20 or newer, then: make dashboard"; fi

.venv/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is missing: install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked environment into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## from nothing to audited gold on real servers; leaves all running (PROFILE=ci is short)
	@$(BIN)/lakehouse demo --profile $(PROFILE)

beats: setup ## the real Filebeat and Metricbeat, built once (needs Go 1.25); without them `lakehouse ship` does it
	@$(BIN)/lakehouse beats

PAGES := serving/dashboard
dashboard: $(PAGES)/dist/index.html ## the pages at /, built with npm (Node.js 20 or newer)

$(PAGES)/node_modules/.package-lock.json: $(PAGES)/package-lock.json $(PAGES)/package.json $(PAGES)/.npmrc
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 1; }
	@echo "installing what the pages are built with"
	@cd $(PAGES) && npm ci --loglevel=error && touch node_modules/.package-lock.json

$(PAGES)/dist/index.html: $(PAGES)/node_modules/.package-lock.json $(PAGES)/index.html $(PAGES)/vite.config.ts \
		$(PAGES)/tsconfig.json $(shell find $(PAGES)/src -type f 2>/dev/null)
	@echo "building the pages"
	@cd $(PAGES) && npm run --silent build

browser: ## Chromium, for the browser tests: installed by apt where that may be, else the command is named
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Chromium"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium fonts-liberation2 fonts-nanum >/dev/null; \
	else echo "no Chromium here, so the browser tests will be skipped; install it, such as: sudo apt-get install chromium"; fi

up: setup ## servers, stream and timetable
	@$(BIN)/lakehouse up

down: ## stop what up and demo started
	@$(BIN)/lakehouse down

test: setup lint test-unit test-streaming test-integration test-browser ## everything but the long runs, on servers of its own

lint: setup ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check src models serving tests jobs notebooks docs deploy
	@$(BIN)/ruff format --check src models serving tests jobs notebooks docs deploy
	@$(BIN)/mypy
	@$(BIN)/lint-imports 

test-unit: setup ## pure functions, no servers
	@$(BIN)/pytest tests/unit -m "not long" -n 4 --dist loadfile

test-streaming: setup ## a Spark session for each of two processes: crash, replay, late and duplicate as inputs
	@$(BIN)/pytest tests/streaming -m "not long" -n 2 --dist loadfile --durations=10

test-integration: setup ## real servers, started for the run
	@$(BIN)/pytest tests/integration -m "not long" --durations=25

test-browser: setup browser ## the pages: their pure parts by Vitest, then all of them in Chromium
	@if [ -d $(PAGES)/node_modules ]; then cd $(PAGES) && npm run --silent test; fi
	@$(BIN)/pytest tests/browser -m "not long" -rs

test-long: setup ## soak, all kill points, a million events through each path, each component off, a cluster: hours
	@$(BIN)/pytest tests/unit tests/streaming tests/integration -m long -s

schema: setup ## docs/schema.graphql and docs/openapi.json afresh, after a change of what the API answers
	@$(BIN)/lakehouse schema graphql --write
	@$(BIN)/lakehouse schema openapi --write

docs: setup ## the docs as a site in build/docs, with the reference that is made from the code
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/docs/index.html"

lock: ## resolve requirements.lock afresh (maintainers)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 -q -o requirements.lock

clean: ## stop everything and delete .venv and all local data
	-@test -x $(BIN)/lakehouse && $(BIN)/lakehouse down
	@rm -rf .venv .lakehouse $(PAGES)/node_modules $(PAGES)/dist
