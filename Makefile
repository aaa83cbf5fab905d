# Everything a fresh machine needs: `make quickstart` and `make test`. Both make their own virtual environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/quickstart-$(shell date +%Y%m%d-%H%M%S)

.PHONY: quickstart test lint bench clean

quickstart: $(VENV)/installed
	$(BIN)/dat doctor
	$(BIN)/dat train digits-resnet --run-dir $(RUN_DIR)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-dev
	mkdir -p bench/results
	result=bench/results/kernels_$$($(BIN)/python -m bench.device_name) && \
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json=$$result.json.new && \
	mv $$result.json.new $$result.json && \
	$(BIN)/python -m bench.kernels_picture $$result.json $$result.svg

clean:
	rm -rf $(VENV) build

$(VENV)/installed: pyproject.toml CMakeLists.txt $(wildcard kernels/dat_kernels/*/*.cpp kernels/dat_kernels/*/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[dev,autoattack,dali]"
	touch $@
