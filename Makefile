PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
comma := ,
# Tested versions for this Python, where there are some.
LOCK = $(wildcard requirements/py$(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])').txt)

.PHONY: quickstart test test-slow lint install

quickstart: install  ## trains a small model with SFT and then GRPO, and shows what it gained
	$(VENV)/bin/python launch/train.py --config=configs/grpo_tiny.py --workdir=runs/quickstart

test: install  ## the fast tests
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: install  ## kills, large conversions
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow

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
