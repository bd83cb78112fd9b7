# The two commands a newcomer needs: `make train` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export SDL_VIDEODRIVER ?= dummy
export MPLBACKEND ?= Agg
# Arguments for train, rl-zoo3's own, e.g. make train ARGS="--env CarRacingBlog-v3 -n 100000"
ARGS ?=
# Tracks that the evaluation after training plays; the full protocol is 100.
TRACKS ?= 10

.PHONY: help setup train test test-slow lint clean

help:
	@echo "make train       train on CarRacing (a million frames, 14 to 33 minutes on one core), evaluate, plot, film; ARGS=... for more"
	@echo "make test        the test suite (about 6 minutes on two fast free cores); make test-slow: the long tests"
	@echo "make lint        ruff and mypy"

setup: $(STAMP)

# torch first and pinned: any range that admits a newer release pulls its CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sb3-carracing needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $(STAMP)

train: $(STAMP)
	$(BIN)/python -m sb3_carracing train_and_report --tracks $(TRACKS) -- \
		--env CarRacingFast-v3 --seed 1 --verbose 0 --eval-freq -1 --save-freq 50000 --tensorboard-log logs/tensorboard $(ARGS)

# Two processes, one thread each: what two cores carry.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: $(STAMP)
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) dist build
