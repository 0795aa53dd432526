# `make demo` and `make test` each set up all they need; a second run installs nothing.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test check clean

demo: $(INSTALLED)
	$(VENV)/bin/isochroma harmonize examples/ch2.nii.gz --output demo --preview --overwrite

test: $(INSTALLED)
	$(PYTHON) -m pytest

check: $(INSTALLED)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable ".[train,evaluate,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
