# Two commands for a new user: `make demo` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROWSER := $(VENV)/.browser
# glibc keeps large blocks for the next tensor: giving them back and fetching them anew took a tenth of the time of some tests.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=536870912

.PHONY: demo test lint format install clean

demo: $(READY)
	$(BIN)/ptq4dm demo --out demo

test: $(READY) $(BROWSER)
	$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(READY)

# torch comes first and alone, from wherever pip is set to look. On PyPI the pinned version is a CUDA build; with
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu in the environment pip takes the CPU build instead.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The report is checked in a real browser. Debian's Chromium is installed if there is none and we may.
$(BROWSER): $(READY)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no chromium: install it (apt-get install chromium) for the tests of the report" >&2
	@command -v chromium >/dev/null && touch $@ || true

clean:
	rm -rf $(VENV) demo demo.work
