# `make demo` and `make test` each set up all they need; a second run installs nothing.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALL := $(PYTHON) -m pip install --quiet --constraint constraints.txt
CORE := $(VENV)/.core
DEV := $(VENV)/.dev

.PHONY: demo test check clean

demo: $(CORE)
	$(VENV)/bin/isochroma harmonize examples/ch2.nii.gz --output demo --preview --overwrite

test: $(DEV)
	$(PYTHON) -m pytest

check: $(DEV)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

$(CORE): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(INSTALL) "torch==2.13.0"
	$(INSTALL) --editable .
	touch $@

$(DEV): $(CORE)
	$(INSTALL) --editable ".[train,evaluate,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
