# The daily commands. They need Python 3.11 or newer and make, and install everything else into .venv.

# The first Python that is new enough and can create environments; PYTHON=... chooses another. The system's Python comes first:
# distributions build it with profile-guided optimisation, which makes a handshake a quarter faster than with pyenv's default build.
NEW_ENOUGH := sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for modules in sys,ensurepip sys; do \
	for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c "import $$modules; $(NEW_ENOUGH)" 2>/dev/null && echo $$python && break 2; done; done)

VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
RUN := PATH="$(VENV)/bin:$$PATH"

# Tests start hundreds of Pythons. Where PYTHONDONTWRITEBYTECODE is set, each of them would compile the package anew.
CACHED := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$(VENV)/bytecode"

# The number of test processes. Many tests wait for time to pass, so three of them keep two cores busy.
# With `--dist worksteal` neighbouring tests stay in one process, so that they share its servers.
TEST_PROCESSES ?= 3

# The target of `make fuzz`, a name in tests/fuzz/targets.py, and how long each runs.
FUZZ ?= all
FUZZ_SECONDS ?= 60

# How long `make chaos` runs.
CHAOS_SECONDS ?= 300

.DEFAULT_GOAL := help
.PHONY: help install check test fuzz test-pythons serve cluster chaos bench soak generate format lock dist clean

help:
	@echo "make install       create .venv with the project and its tools"
	@echo "make check         lint, check formatting and types (ruff, mypy)"
	@echo "make test          run the tests (TESTS=tests/wire: only these)"
	@echo "make serve         serve the example site on http://127.0.0.1:9000/ (BIND=127.0.0.1:8000, MUD_PORT=4001: elsewhere)"
	@echo "make cluster       run three nodes of one site with an engine and a load balancer (BALANCER=nginx, BIND=127.0.0.1:8000, LEASE=20s)"
	@echo "make chaos         break a cluster of three nodes in every way, for five minutes (CHAOS_SECONDS=600: for longer)"
	@echo "make bench         run the benchmark against every peer that is installed (BENCH=--quick: one short round)"
	@echo "make soak          run the long scenarios: edits under load lose no message, and ten thousand rooms leave nothing behind"
	@echo "make fuzz          run each fuzz target for a minute (FUZZ=frames FUZZ_SECONDS=600: one, for longer)"
	@echo "make test-pythons  run a short part of the tests on the other supported versions of Python that are installed"
	@echo "make generate      write the generated files: schema, docs/config.md, docs/admin-api.md, files that the examples share"
	@echo "make format        format the sources and apply ruff's fixes"
	@echo "make lock          write requirements-dev.lock with the newest versions"
	@echo "make dist          build sdist and wheel into dist/, and try the wheel in an empty environment"
	@echo "make clean         remove .venv and everything that was built"

install: $(INSTALLED)

# An environment that works is kept, whichever Python made it: `venv` of another Python would break it.
$(INSTALLED): pyproject.toml requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "make: found no Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot create environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(VENV)/bin/python -c "import sys, pip; $(NEW_ENOUGH)" 2>/dev/null || { echo "$(PYTHON) -m venv $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

check: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

test: install
	$(RUN) $(CACHED) python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(TESTS)

fuzz: install
	$(RUN) python -m tests.fuzz $(FUZZ) --seconds $(FUZZ_SECONDS)

test-pythons: install
	$(RUN) $(CACHED) python .ci/pythons.py

serve: install
	@export $(RUN); exec examples/serve.sh  # exec: signals for make's child reach the script

cluster: install
	@exec $(VENV)/bin/python examples/cluster/run.py  # exec: signals for make's child reach the script

chaos: install
	$(RUN) $(CACHED) python -m tests.cluster.chaos --seconds $(CHAOS_SECONDS)

bench: install
	$(RUN) $(CACHED) python -m benchmarks $(BENCH)

soak: install
	$(RUN) $(CACHED) python -m pytest -m soak $(TESTS)

generate: install
	$(RUN) scalesocket schema > schemas/site.schema.json
	$(RUN) python -m scalesocket.config.reference > docs/config.md
	$(RUN) python -m scalesocket.server.admin.reference > docs/admin-api.md
	for app in chat arena mud whiteboard editor terminal; do cp examples/shared/room.js examples/shared/style.css examples/$$app/page/; done
	cp examples/shared/style.css examples/home/page/
	mkdir -p scalesocket/cli/templates/shared && cp examples/shared/* scalesocket/cli/templates/shared/

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# A fresh environment keeps everything out of the lock that the project does not require.
lock:
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.lock-venv/bin/python -m pip install --quiet . --group dev
	{ echo "# Written by \`make lock\`: the versions that \`make install\` puts into .venv."; \
	  .lock-venv/bin/python -m pip freeze --exclude scalesocket; } > requirements-dev.lock
	rm -rf .lock-venv

dist: install
	.ci/wheel $(VENV)/bin/python

clean:
	rm -rf $(VENV) .lock-venv .pythons .mypy_cache .pytest_cache .ruff_cache .hypothesis .fuzz dist build
