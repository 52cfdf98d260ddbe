# The daily verbs. A Python of 3.11 or newer and make are all that must be there; the rest goes into .venv.

# The first that is new enough and can make environments; PYTHON=... chooses another. The system's is asked first: that of a
# distribution is built with profile-guided optimisation, which others (pyenv's, say) are only when asked for, and a handshake
# takes a quarter less time on it.
NEW_ENOUGH := sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for modules in sys,ensurepip sys; do \
	for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$python -c "import $$modules; $(NEW_ENOUGH)" 2>/dev/null && echo $$python && break 2; done; done)

VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
RUN := PATH="$(VENV)/bin:$$PATH"

# Tests on so many processes at once; neighbours stay together as far as that keeps both busy, because some share a server.
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install check test serve bench soak generate format lock clean

help:
	@echo "make install   .venv with the project and its tools"
	@echo "make check     ruff and mypy"
	@echo "make test      the tests"
	@echo "make serve     the example site on http://127.0.0.1:9000/ (BIND=127.0.0.1:8000, MUD_PORT=4001: elsewhere)"
	@echo "make bench     the benchmark, against whatever peers are found"
	@echo "make soak      the long loss-free scenario of a site that is edited under load"
	@echo "make generate  what is made from the code: schema, docs/config.md, shared files of the examples"
	@echo "make format    rewrite the sources as ruff likes them"
	@echo "make lock      requirements-dev.lock, from the newest versions"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "make: no Python of 3.11 or newer found; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "make: $(PYTHON) cannot make environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

check: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

test: install
	$(RUN) python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(TESTS)

serve: install
	@export $(RUN); exec examples/serve.sh  # exec: a signal for make's child is one for the script

bench: install
	$(RUN) python -m benchmarks $(BENCH)

soak: install
	$(RUN) python -m pytest -m soak $(TESTS)

generate: install
	$(RUN) scalesocket schema > schemas/site.schema.json
	$(RUN) python -m scalesocket.config.reference > docs/config.md
	for app in chat arena mud whiteboard editor terminal; do cp examples/shared/room.js examples/shared/style.css examples/$$app/page/; done
	cp examples/shared/style.css examples/home/page/
	mkdir -p scalesocket/cli/templates/shared && cp examples/shared/* scalesocket/cli/templates/shared/

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# From a fresh environment, so that nothing is in the lock which the project does not ask for.
lock:
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.lock-venv/bin/python -m pip install --quiet . --group dev
	{ echo "# Made by \`make lock\`: what \`make install\` puts into .venv."; \
	  .lock-venv/bin/python -m pip freeze --exclude scalesocket; } > requirements-dev.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) .lock-venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
