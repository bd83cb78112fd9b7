# `make train` and `make test` are the two commands a newcomer needs. Each sets up what it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
TEST := $(VENV)/.installed-test
DOCS := $(VENV)/.installed-docs
export SDL_VIDEODRIVER ?= dummy
export MPLBACKEND ?= Agg
# Arguments for train, the same as rl-zoo3's, e.g. make train ARGS="--env CarRacingBlog-v3 -n 100000"
ARGS ?=
# Number of tracks that the evaluation after training plays. The full protocol plays 100.
TRACKS ?= 10

.PHONY: help setup train train-long test test-quick test-slow test-lowest test-latest lint docs lock clean

help:
	@echo "make train        train on CarRacing on all cores, then evaluate, plot, film and report (two to four minutes on two cores)"
	@echo "make train-long   the same with a million frames, for a faster driver (about 15 minutes on two cores)"
	@echo "make test         run the test suite (3 to 7 minutes on two cores)"
	@echo "make test-quick   run the quick tests only (about a minute)"
	@echo "make test-slow    run the long tests (17 to 23 minutes on two cores)"
	@echo "make test-lowest  run the tests with the lowest supported versions, in a virtual environment of its own"
	@echo "make test-latest  run the tests with the newest versions, in a virtual environment of its own"
	@echo "make lint         run ruff and mypy"
	@echo "make docs         build the documentation into docs/_build/html; with DOCS_ONLINE=1 it links to other projects"
	@echo "make lock         write requirements.lock anew from what is installed in .venv"

setup: $(TEST)

# torch comes first and pinned: a range that admits a newer release installs several gigabytes of CUDA packages.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sb3-carracing needs Python 3.11 or newer")'
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --upgrade "pip>=25.1"
	$(1)/bin/pip install --quiet --constraint $(2) torch
	$(1)/bin/pip install --quiet --constraint $(2) --editable ".[all]" $(3)
endef

$(RUN): pyproject.toml requirements.lock
	$(call install,$(VENV),requirements.lock)
	touch $@

$(TEST): $(RUN)
	$(call install,$(VENV),requirements.lock,--group dev)
	touch $@

$(DOCS): $(RUN)
	$(call install,$(VENV),requirements.lock,--group docs)
	touch $@

train-long: PRESET := -conf hyperparams/beta_ppo_long.yml
train train-long: $(RUN)
	$(BIN)/python -m sb3_carracing train_and_report --tracks $(TRACKS) -- \
		--env CarRacingFast-v3 --seed 1 --ranks auto --tensorboard-log logs/tensorboard $(PRESET) $(ARGS)

# Two processes with one thread each suit a machine with two cores.
PYTEST_OPTIONS := --numprocesses 2 --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

test: $(TEST)
	$(PYTEST)

# The laws of the learner and the rules of the environment: no training, no process, no stock episode.
QUICK := $(addprefix tests/ppo/test_,losses.py distributions.py policies.py hyperparameters.py buffers.py) \
	$(addprefix tests/envs/test_,training_rules.py wrappers.py) \
	$(addprefix tests/test_,imports.py pipelines.py runs.py files.py logs.py)

test-quick: $(TEST)
	$(PYTEST) $(QUICK)

test-slow: $(TEST)
	$(PYTEST) -m slow

# The lower ends of the ranges in pyproject.toml. torch keeps the version of the lock.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --upgrade "pip>=25.1" uv
	grep '^torch==' requirements.lock > .venv-lowest/torch.txt
	.venv-lowest/bin/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --extra all \
		--override .venv-lowest/torch.txt pyproject.toml --output-file .venv-lowest/lowest.txt
	$(call install,.venv-lowest,.venv-lowest/lowest.txt,--group test)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(PYTEST_OPTIONS)

# The newest versions of everything but torch: this shows early when a library changes something we rely on.
test-latest:
	$(PYTHON) -m venv .venv-latest
	grep '^torch==' requirements.lock > .venv-latest/torch.txt
	$(call install,.venv-latest,.venv-latest/torch.txt,--upgrade --group test)
	OMP_NUM_THREADS=1 .venv-latest/bin/python -m pytest $(PYTEST_OPTIONS)

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Warnings are errors, so links within the site cannot break.
docs: $(DOCS)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

lock: $(TEST) $(DOCS)
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) .venv-lowest .venv-latest dist build docs/_build
