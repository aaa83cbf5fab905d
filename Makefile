# Everything a fresh machine needs. All targets make and use their own virtual environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifndef RUN_DIR
RUN_DIR := runs/quickstart-$(shell date +%Y%m%d-%H%M%S)
endif
# two processes of one thread each: what every machine has, and steadier than one process that shares its threads
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint docs bench clean

help:
	@echo "make quickstart  install into .venv, look at the machine, train and evaluate the embedded recipe (downloads no data)"
	@echo "make test        install with everything for development, run the tests, the documentation's build among them"
	@echo "make test-slow   the tests that take longer than ten seconds each: kills, restarts, compilation, the wheel"
	@echo "make lint        ruff check, ruff format --check, mypy"
	@echo "make docs        build the documentation into build/site"
	@echo "make bench       benchmark the kernels and draw the picture into bench/results"
	@echo "make clean       remove .venv and build"
	@echo
	@echo "PYTHON=python3.12 make ... takes another Python (3.11 or newer is needed)."

quickstart: $(VENV)/installed
	$(BIN)/dat doctor
	$(BIN)/dat train digits-resnet --run-dir $(RUN_DIR)
	@echo
	@echo "make quickstart done: a robust classifier of handwritten digits is in $(RUN_DIR)."
	@echo "next:  $(BIN)/dat evaluate $(RUN_DIR)"
	@echo "       $(BIN)/dat train cifar10-resnet18 --data-root data    (downloads CIFAR-10; for a GPU)"
	@echo "docs:  docs/index.md, or make docs and then build/site/index.html"

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"
	@echo "make test done. next: make test-slow, make lint; CONTRIBUTING.md says what a change has to show"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow --durations=12

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "make docs done: open build/site/index.html; $(BIN)/python -m mkdocs serve shows changes as you write"

bench: $(VENV)/installed-dev
	mkdir -p bench/results
	result=bench/results/kernels_$$($(BIN)/python -m bench.device_name) && \
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json=$$result.json.new && \
	mv $$result.json.new $$result.json && \
	$(BIN)/python -m bench.kernels_picture $$result.json $$result.svg
	@echo "make bench done: figures and picture are in bench/results"

clean:
	rm -rf $(VENV) build

$(VENV)/installed: pyproject.toml CMakeLists.txt $(wildcard kernels/dat_kernels/*/*.cpp kernels/dat_kernels/*/*.h)
	@echo "Installing dat-engine into $(VENV). The first time PyTorch and its CUDA libraries are downloaded: about 3 GB, 7 GB on disk;"
	@echo "some minutes, most of them with a progress bar of pip's. Then the CPU kernels are compiled, which takes a minute or two."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what development needs besides: DALI (200 MB and its codecs), AutoAttack, pytest, ruff, mypy, MkDocs, matplotlib."
	$(PIP) install --editable ".[dev,autoattack,dali]"
	touch $@
