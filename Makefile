# `make demo` and `make test` need Python 3.10 to 3.13 and nothing else: each makes its own .venv.
PYTHON ?= python3
BIN := .venv/bin

ROWS := 2000
RUNS := 8

.PHONY: demo test torture engines chaos bench lint format docs quality tiny clean

demo: .venv/.installed
	$(BIN)/clip-beam demo

# One thread for each process, and one process more than there are cores, as many tests wait for others.
# Tests that stand together share fixtures, so each process takes a stretch.
test: WORKERS = $(shell $(BIN)/python -c "import os; print(min(4, 1 + (os.cpu_count() or 1)))")
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Thousands of bad inputs and hundreds of faulty runs, in a quarter of an hour on two cores.
torture: .venv/.installed-dev
	$(BIN)/python tests/torture/torture.py

# The same rows on every engine, with deaths in the midst; a `prism` on PATH is used, too.
engines: .venv/.installed-dev
	$(BIN)/python -m bench.engines --rows $(ROWS)
	$(BIN)/python tests/torture/chaos.py --runs $(RUNS)

# Fifty runs whose slots, nodes and launchers are killed while units are in flight.
chaos: .venv/.installed-dev
	$(BIN)/python tests/torture/chaos.py

bench: .venv/.installed-dev
	$(BIN)/python -m bench.throughput
	$(BIN)/python -m bench.decoding
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.gpu

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict clip_core schemas
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The page that lists every flag; a test holds it to the command lines.
docs: .venv/.installed-dev
	$(BIN)/python docs/make_commands.py

# The figures of the model card, on scenes that no training run has drawn.
quality: .venv/.installed
	$(BIN)/python -m bench.quality --model tiny --seed 11

# Trains the bundled model anew, in under an hour on two cores; the result is in build/tiny.
# Without the two thresholds glibc gives every activation back to the system after each step.
tiny: .venv/.installed
	$(BIN)/clip-beam sample --output build/scenes --rows 48000 --seed 1 --colour_shape_pairs seen
	MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 \
	$(BIN)/clip-beam pretrain --manifest build/scenes --output build/tiny --variant tiny-rn \
		--epochs 16 --learning_rate 2e-3 --horizontal_flip

clean:
	rm -rf .venv build demo-output

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/.installed: .venv/bin/python setup.py
	$(BIN)/python -m pip install --quiet -e ".[report]"
	touch $@

.venv/.installed-dev: .venv/bin/python setup.py
	$(BIN)/python -m pip install --quiet -e ".[test,dev]"
	touch $@ .venv/.installed
