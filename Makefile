# `make run` and `make test` need Python 3.11+, make and a package index, nothing else.
# A stamp file in .venv stands for each finished step; a changed pyproject.toml repeats the installation.

VENV := .venv
PYTHON := $(VENV)/bin/python
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11
INSTALL := $(PYTHON) -m pip --disable-pip-version-check install --quiet

# Two a core and one more: half of a test's time is waiting, for servers, browsers and expiries.
TEST_PROCESSES = $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN) + 1)))

# The options of a load test or a benchmark are given as variables: make load USERS=2000 SECONDS=30
option = $(if $($(1)),--$(2) '$($(1))')

.DEFAULT_GOAL := help
.PHONY: help run test check format fuzz postman load chaos bench bench-live bench-chain bench-path bench-versions bench-newcomers bench-durability bench-release capacity simulate pictures clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s%s\n", $$1, $$2 }' Makefile

run: $(VENV)/.run ## start the service on http://127.0.0.1:5000; Ctrl-C stops it
	@exec $(PYTHON) -m service serve

test: $(VENV)/.dev ## run the tests with coverage; ARGS='-k book' passes options to pytest
	@$(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadgroup --cov --cov-report=term-missing:skip-covered $(ARGS)

check: $(VENV)/.dev ## lint, formatting, types, layers, Lua
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy --strict service
	@$(VENV)/bin/lint-imports --no-logo
	@if command -v luacheck >/dev/null; then \
		luacheck --quiet --no-color --config lua/.luacheckrc lua; \
	elif [ -n "$$CI" ]; then \
		echo "luacheck is missing: in CI that is a failure" >&2; exit 1; \
	else \
		echo "luacheck is missing, the Lua scripts go unchecked (Debian: apt install lua-check; macOS: brew install luacheck)"; \
	fi

format: $(VENV)/.dev ## format the Python code and mend what ruff can mend
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

fuzz: $(VENV)/.dev ## let schemathesis ask whatever the API's document allows and forbids; SECONDS=, SEED=
	@$(PYTHON) -m tests.fuzz $(call option,SECONDS,seconds) $(call option,SEED,seed)

postman: $(VENV)/.dev ## run the Postman collection with Newman and take the pictures of it; PICTURES=no
	@$(PYTHON) -m docs.postman.run $(if $(filter no,$(PICTURES)),--no-pictures)

load: $(VENV)/.dev ## run the load scenarios, then check the books; USERS=, SECONDS=
	@$(PYTHON) -m loadtests.load $(call option,USERS,users) $(call option,SECONDS,seconds)

chaos: $(VENV)/.dev ## break one thing after the other under load; SEED=, SCENARIO=, SERVER=, ARGS='--list'
	@$(PYTHON) -m tests.chaos $(call option,SEED,seed) $(call option,SCENARIO,scenario) $(call option,SERVER,server) $(if $(RECORD),--record) $(ARGS)

bench: $(VENV)/.dev ## measure against the bare framework and plain redis-py; QUICK=1 is under 2 minutes
	@$(PYTHON) -m loadtests.benchmark $(if $(QUICK),--quick) $(if $(PAGES),--pages)

bench-durability: $(VENV)/.dev ## measure what it costs that an answered booking survives; ROUNDS=, SECONDS=, FOLDER=
	@$(PYTHON) -m loadtests.durability $(call option,ROUNDS,rounds) $(call option,SECONDS,seconds) $(call option,FOLDER,folder)

bench-path: $(VENV)/.dev ## measure the way of a request without sockets; fails where it has become dearer
	@$(PYTHON) -m loadtests.$(if $(PARTS),parts,path) $(call option,ROUNDS,rounds) $(if $(RECORD),--record)

bench-versions: $(VENV)/.dev ## measure two versions of the service in turns; BEFORE=commit, AFTER=, ROUNDS=
	@$(PYTHON) -m loadtests.versions $(call option,BEFORE,before) $(call option,AFTER,after) $(call option,ROUNDS,rounds)

bench-newcomers: $(VENV)/.dev ## measure how long newcomers wait while a crowd is served; BEFORE=commit, BUSY=, ROUNDS=
	@$(PYTHON) -m loadtests.newcomers $(call option,BEFORE,before) $(call option,BUSY,busy) $(call option,ROUNDS,rounds)

bench-chain: $(VENV)/.dev ## measure a chain of 10,000 theatres beside a single one; THEATRES=, ROUNDS=
	@$(PYTHON) -m loadtests.chain $(call option,THEATRES,theatres) $(call option,ROUNDS,rounds)

bench-live: $(VENV)/.dev ## measure live seats: from booking to event, and what listeners cost; LISTENERS=, ROUNDS=
	@$(PYTHON) -m loadtests.live $(call option,LISTENERS,listeners) $(call option,ROUNDS,rounds)

bench-release: $(VENV)/.dev ## replace the running service each way there is, and count failed requests; ROUNDS=, WAY=, OTHER=
	@$(PYTHON) -m loadtests.release $(call option,REQUESTS,requests) $(call option,ROUNDS,rounds) $(call option,WAY,way) $(call option,OTHER,other)

capacity: $(VENV)/.dev ## say how many web processes, shards and gigabytes a demand takes; ARGS=--check measures anew
	@$(PYTHON) -m loadtests.capacity $(ARGS)

simulate: $(VENV)/.dev ## simulate a national on-sale; SEED=, ARGS='--webs 4,8 --shards 2', ARGS=--help for more
	@$(PYTHON) -m loadtests.onsale $(call option,SEED,seed) $(ARGS)

pictures: $(VENV)/.dev ## take the documents' pictures of the pages anew; needs chromium
	@$(PYTHON) -m pytest -q -n 0 tests/browser/pictures.py

clean: ## remove the virtual environment and the caches; the tickets in data/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache .postman .coverage* htmlcov dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@found=; for python in $(CANDIDATES); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		found=$${found:-$$python}; \
		$$python -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "Making $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV) && touch $@; exit; \
	done; \
	if [ -n "$$found" ]; then \
		echo "$$found has no venv module: install it first (Debian, Ubuntu: apt install python3-venv)" >&2; \
	else \
		echo "Matinee needs Python 3.11 or newer, and none of $(CANDIDATES) is (Debian 12+: apt install python3 python3-venv; macOS: brew install python)" >&2; \
	fi; exit 1

$(VENV)/.run: $(VENV)/.made pyproject.toml
	@echo "Installing Matinee into $(VENV) (once; takes some seconds)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	@echo "Installing Matinee and its development tools into $(VENV) (once; takes up to a minute)"
	@$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.run $@
