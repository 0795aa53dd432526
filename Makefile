# Each target sets up all it needs in .venv; a second run installs nothing.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALL := $(PYTHON) -m pip install --quiet --constraint constraints.txt
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs

.PHONY: demo test fuzz check docs clean

demo: $(CORE)
	$(VENV)/bin/isochroma harmonize examples/ch2.nii.gz --output demo --preview --overwrite

test: $(DEV)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses 2 --dist loadfile --durations 10

fuzz: $(DEV)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(PYTHON) -m fuzz

check: $(DEV)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(VENV)/bin/numpydoc lint $$(find src -name '*.py')

docs: $(DOCS)
	$(PYTHON) -m isochroma.evaluation.measures docs/measures.md
	$(PYTHON) docs/commands.py docs/commands.md
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(CORE): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(INSTALL) "torch==2.13.0"
	$(INSTALL) --editable .
	touch $@

$(DEV): $(CORE)
	$(INSTALL) --editable ".[train,evaluate,bids,dev]"
	touch $@

$(DOCS): $(CORE)
	$(INSTALL) --editable ".[evaluate,docs]"
	touch $@

clean:
	rm -rf $(VENV) demo site
