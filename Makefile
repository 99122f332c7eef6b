# Every target sets up what it needs, in .venv, on a machine with Python 3.11+, pip and make.
PYTHON      ?= python3
VENV        ?= .venv
TORCH       ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
QUARTO      ?= quarto-cli==1.7.34
WORKERS     ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COSTUMES := test-avx2 test-float32 test-bfloat16 test-threads

.NOTPARALLEL:
.PHONY: help about-demo about-test demo test $(COSTUMES) test-orders test-installed lab hooks student docs bench readme notebooks clean quarto
help:            ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: about-demo $(VENV)/runtime  ## corpus -> tokenizer -> training -> evaluation -> stories, minutes on a CPU
	$(BIN)/lm336_demo

about-demo:
	@echo "make demo: about 5 minutes on two CPU cores."

test: export OMP_NUM_THREADS ?= 1
test: about-test $(VENV)/dev    ## every notebook, then every test
	@$(BIN)/python .ci/run_tests.py --workers $(WORKERS)

about-test:
	@echo "make test: every notebook, then every test; about 17 minutes on two CPU cores."

test-avx2: about-test $(VENV)/dev      ## make test in float32, as on a processor without AVX512
test-float32: about-test $(VENV)/dev   ## make test in float32, as this processor has it
test-bfloat16: about-test $(VENV)/dev  ## make test in bfloat16, where the processor has it
test-threads: about-test $(VENV)/dev   ## make test with two threads instead of one
$(COSTUMES):
	@$(BIN)/python .ci/costume.py $(@:test-%=%)

test-orders: $(VENV)/dev        ## the tests in three other orders, as another user, from another folder; an hour
	@$(BIN)/python .ci/orders.py

test-installed: $(VENV)/dev     ## sdist and wheel, installed and tried where nothing else is; three minutes
	@$(BIN)/python .ci/installed.py --torch '$(TORCH)'

lab: $(VENV)/dev                ## the notebooks in JupyterLab; make lab ARGS="--no-browser --port 9999"
	$(BIN)/jupyter lab --config .ci/lab.py $(ARGS)

hooks: $(VENV)/dev              ## git merges notebooks cell by cell, by nbdev
	git config merge.nbdev-merge.name "notebooks, cell by cell"
	git config merge.nbdev-merge.driver '$(abspath $(BIN))/nbdev_merge %O %A %B %P'

student: $(VENV)/dev            ## the notebooks without answers, to hand out: a folder student
	$(BIN)/python .ci/student.py student

docs: quarto                    ## render the site and serve it
	PATH=$(abspath $(BIN)):$$PATH python .ci/site.py render
	$(BIN)/python -m http.server --directory _docs 3000

bench: $(VENV)/dev              ## the comparisons in benchmarks/, one after the other; each says first how long it takes
	@$(BIN)/python benchmarks/all.py

readme: $(VENV)/dev             ## README.md from nbs/index.ipynb
	$(BIN)/python .ci/notebooks.py readme

notebooks: $(VENV)/dev          ## run every notebook in place, clean it, export its module
	$(BIN)/python .ci/notebooks.py execute nbs/*.ipynb
	PATH=$(abspath $(BIN)):$$PATH nbdev_clean
	PATH=$(abspath $(BIN)):$$PATH nbdev_export

clean:           ## remove what the other targets made
	rm -rf $(VENV) _docs _proc runs build dist *.egg-info

# PyPI's package fetches Quarto's program, 130 MB, into $(VENV); the public workflow renders with the same version.
quarto: $(VENV)/dev
	@export PATH=$(abspath $(BIN)):$$PATH; command -v quarto >/dev/null || { echo "installing $(QUARTO)"; $(PIP) install '$(QUARTO)' >/dev/null 2>&1; } \
	|| { echo "make docs needs Quarto, and pip could not install $(QUARTO): get it from https://quarto.org/docs/get-started/, then run make docs again"; exit 1; }

# A virtual environment, also where Debian has left out ensurepip; then torch.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"lm336 needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}: run make PYTHON=/path/to/python3.11")'
	@echo "First $(VENV): 1.2 GB for the demo, 1.7 GB with what the tests and JupyterLab need; more where torch comes with CUDA. A few minutes, most of them download."
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install --quiet pip; }

$(VENV)/torch: | $(BIN)/python
	@TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python .ci/install_torch.py '$(TORCH)'
	@touch $@

$(VENV)/runtime: settings.ini setup.py pyproject.toml | $(VENV)/torch
	@echo "installing lm336"; $(PIP) install -e .
	@touch $@

$(VENV)/dev: settings.ini setup.py pyproject.toml | $(VENV)/torch
	@echo "installing lm336 and what its tests need"; $(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/runtime
