# Every target sets up what it needs, in .venv, on a machine with Python 3.11+, pip and make.
PYTHON      ?= python3
VENV        ?= .venv
TORCH       ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WORKERS     ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test lab docs bench readme notebooks clean quarto
help:            ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/runtime           ## corpus -> tokenizer -> training -> evaluation -> stories, minutes on a CPU
	$(BIN)/lm336_demo

test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/dev               ## every notebook, then every test
	$(BIN)/nbdev_test --n_workers $(WORKERS) --do_print --timing
	$(BIN)/python -m pytest -q -rs --timeout 600 --durations 10 tests

lab: $(VENV)/dev                ## the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

docs: quarto $(VENV)/dev        ## render the site and serve it (needs Quarto)
	PATH=$(abspath $(BIN)):$$PATH python .ci/site.py render
	$(BIN)/python -m http.server --directory _docs 3000

bench: $(VENV)/dev              ## the comparisons in benchmarks/, one after the other
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

readme: $(VENV)/dev             ## README.md from nbs/index.ipynb
	$(BIN)/python .ci/notebooks.py readme

notebooks: $(VENV)/dev          ## run every notebook in place, clean it, export its module
	$(BIN)/python .ci/notebooks.py execute nbs/*.ipynb
	PATH=$(abspath $(BIN)):$$PATH nbdev_clean
	PATH=$(abspath $(BIN)):$$PATH nbdev_export

clean:           ## remove what the other targets made
	rm -rf $(VENV) _docs _proc runs build *.egg-info

quarto:
	@command -v quarto >/dev/null || { echo "make docs needs Quarto, which is not a Python package: get it from https://quarto.org/docs/get-started/, then run make docs again"; exit 1; }

# A virtual environment, also where Debian has left out ensurepip; then torch: with CUDA where there is
# an NVIDIA GPU, else the CPU build, which PyTorch serves from an index of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"lm336 needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: run make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install --quiet pip; }

$(VENV)/torch: | $(BIN)/python
	@if nvidia-smi -L >/dev/null 2>&1; then from=; \
	elif $(BIN)/python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' $(TORCH_INDEX) 2>/dev/null; then from="--index-url $(TORCH_INDEX)"; \
	else from=; echo "$(TORCH_INDEX) cannot be reached: taking $(TORCH) from the default index"; fi; \
	echo "installing $(TORCH) $$from"; $(PIP) install $(TORCH) $$from
	@touch $@

$(VENV)/runtime: settings.ini setup.py | $(VENV)/torch
	@echo "installing lm336"; $(PIP) install -e .
	@touch $@

$(VENV)/dev: settings.ini setup.py | $(VENV)/torch
	@echo "installing lm336 and what its tests need"; $(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/runtime
