# The commands of the README. Everything they need is installed into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGING := settings.ini setup.py pyproject.toml

.PHONY: help demo lab test install dev hooks check readme docs wheel clean

help:
	@echo "make demo    from simulated genomes to a map of the latent space, ten minutes on two busy cores"
	@echo "make lab     the tutorials in JupyterLab"
	@echo "make test    every test: pytest, the source notebooks, the experiments"
	@echo "make check   export and clean the notebooks, and say whether that changed anything"
	@echo "make readme  write README.md from nbs/index.ipynb"
	@echo "make docs    the documentation site in _docs/, from the notebooks; no network needed"
	@echo "make wheel   sdist and wheel in dist/"
	@echo "make hooks   git hooks that keep notebooks clean and mergeable"
	@echo "make clean   remove the environment and what the demo made"

demo: install
	$(BIN)/isoclr demo

lab: $(VENV)/installed-lab
	$(BIN)/jupyter lab nbs/tutorials

test: dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 20

install: $(VENV)/installed
dev: $(VENV)/installed-dev

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "isoclr needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/made $(PACKAGING)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-lab: $(VENV)/made $(PACKAGING)
	$(BIN)/python -m pip install -e ".[lab,cluster]"
	touch $@ $(VENV)/installed

$(VENV)/installed-dev: $(VENV)/made $(PACKAGING)
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@ $(VENV)/installed $(VENV)/installed-lab

check: dev
	PATH="$(abspath $(BIN)):$$PATH" sh -c "nbdev_export && nbdev_clean"
	git diff --exit-code --stat -- nbs isoclr

readme: dev
	$(BIN)/jupyter nbconvert --to markdown --output-dir . --output README nbs/index.ipynb

docs: dev
	$(BIN)/python docs/build.py
	@echo "open _docs/index.html in a browser"

wheel: dev
	$(BIN)/python -m build --no-isolation --outdir dist

hooks: dev
	PATH="$(abspath $(BIN)):$$PATH" nbdev_install_hooks
	cp .githooks/pre-commit .git/hooks/pre-commit

clean:
	rm -rf $(VENV) runs isoclr.egg-info build dist _docs
