PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
comma := ,
# Tested versions for this Python, where there are some.
LOCK = $(wildcard requirements/py$(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])').txt)

.PHONY: quickstart test test-slow lint bench-gpu install

quickstart: install  ## trains a small model with SFT and then GRPO, and shows what it gained
	$(VENV)/bin/python launch/train.py --config=configs/grpo_tiny.py --workdir=runs/quickstart

test: install  ## the fast tests
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install  ## kills, large conversions
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow

# What decides speed and correctness on one GPU; each may fail or run out of time alone.
BENCH = timeout 150 $(VENV)/bin/python launch/bench.py --config=configs/bench
SEVEN = train_step.py:7b --config.optimizer.moments=bfloat16 --config.batch_size=4
bench-gpu:  ## with the extras cuda and test: decoding's kernels, attention, training, generation, GRPO
	mkdir -p runs/bench
	-timeout 150 $(VENV)/bin/python -m pytest -q tests/rollout/test_gpu_attention.py
	-$(BENCH)/attention.py:1_3b
	-$(BENCH)/train_step.py:1_3b
	-$(BENCH)/generation.py:7b --config.measure.rounds=1
	-$(BENCH)/$(SEVEN)
	-$(BENCH)/generation.py:1_3b --config.measure.rounds=1
	-timeout 150 $(VENV)/bin/python launch/train.py --config=configs/grpo_tiny.py \
	  --config.init.stage.steps=60 --config.steps=8 --workdir=runs/bench/grpo_tiny

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

install: $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

$(VENV)/.installed-%: pyproject.toml $(LOCK)
	@echo "installing into $(VENV), 1 to 2 minutes ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@$(VENV)/bin/python -m pip install --quiet -e '.[$(EXTRAS)]' $(addprefix -c ,$(LOCK))
	@touch $@
