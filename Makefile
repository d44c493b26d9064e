# Everything runs from .venv, which is made when missing: `make demo` and `make test` need nothing
# before them but Python (on Debian: python3, python3-venv and make).
VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest -q
WEB := tests/runtimes/node_modules/.package-lock.json
# Plain names: macOS ships GNU make 3.81.
.DELETE_ON_ERROR:
.PHONY: demo test test-slow lint format perf runtimes fuzz clean

demo: $(VENV)/.with-examples
	$(PYTHON) examples/digits.py

test: $(VENV)/.with-dev,parity,examples
	$(PYTEST) -n auto -m "not slow" $(ARGS)

test-slow: $(VENV)/.with-dev,parity,examples,runtimes $(WEB)
	$(PYTEST) -m slow $(ARGS)

lint: $(VENV)/.with-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: $(VENV)/.with-dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

perf: $(VENV)/.with-dev,parity,examples
	set -e; for script in perf/*.py; do $(PYTHON) $$script; done

runtimes: $(VENV)/.with-runtimes $(WEB)
	PYTHONPATH=tests $(PYTHON) -m runtimes

# Seconds are for each kind; KIND and SEED are those that a failure is printed with.
SECONDS := 60
fuzz: $(VENV)/.with-dev,parity,examples
	PYTHONPATH=tests $(PYTHON) -m fuzz $(KIND) --seconds $(SECONDS) $(addprefix --seed ,$(SEED)) $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		tests/runtimes/node_modules

# A stamp for each set of extras. The loader itself says whether MLX will find a fast BLAS.
$(VENV)/.with-%: pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[$*]'
	@$(PYTHON) -P -W error mlxfunc/_blas.py >/dev/null 2>&1 || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopenblas0-pthread </dev/null; \
	} || $(PYTHON) -P mlxfunc/_blas.py
	@touch $@

# ONNX Runtime Web, and what runs it: Node and a browser, from Debian when they are missing.
$(WEB): tests/runtimes/package-lock.json
	@missing=; \
	command -v npm >/dev/null || missing="nodejs npm"; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		missing="$$missing chromium"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing </dev/null; \
	fi
	cd tests/runtimes && npm ci --silent
	@touch $@

# The Python of macOS's developer tools is too old: there, uv brings a newer one.
$(PYTHON):
	@for python in python3 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python -m venv $(VENV); \
		fi; \
	done; \
	echo "No Python 3.11 or newer on the path; fetching one with uv."; \
	python3 -m venv $(VENV)/uv && \
	$(VENV)/uv/bin/python -m pip install --quiet uv && \
	$(VENV)/uv/bin/uv venv --quiet --allow-existing --seed --python 3.12 $(VENV) || \
	{ echo "mlxfunc needs Python 3.11 or newer: install one (brew install python) and try again."; exit 1; }
