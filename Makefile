# On a fresh machine with Python 3.11+, pip and make:  make run   then   make test
PYTHON ?= python3
BIN := .venv/bin
export WANDB_MODE ?= offline
# Where it is set, every process, and there are hundreds, would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test setup lint lock clean

run: .venv/ready  ## the quickstart on real digits: three frames, three seeds
	$(BIN)/dai-lab -m +experiment=quickstart

test: .venv/ready .venv/anvil/ready  ## every test and notebook
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=40

lint: .venv/ready  ## what the tests check too: style, types, rooms
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

setup: .venv/ready

# uv comes from pip, into a folder of its own: some Pythons have no venv module, and some refuse
# that pip touches anything else.
.venv/uv/bin/uv:
	$(PYTHON) -m pip install -q --disable-pip-version-check --target .venv/uv uv

.venv/ready: requirements.lock pyproject.toml | .venv/uv/bin/uv
	@test -x $(BIN)/python || .venv/uv/bin/uv venv -q --allow-existing --python $(PYTHON) .venv
	.venv/uv/bin/uv pip sync -q --python $(BIN)/python requirements.lock
	.venv/uv/bin/uv pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m dai_lab.learning.warm
	@touch $@

# A real node for contracts to be tested on; where npm cannot provide it, those tests say so and skip.
.venv/anvil/ready:
	@mkdir -p $(@D)
	@if npm install --silent --no-audit --no-fund --prefix $(@D) @foundry-rs/anvil@1.7.1; then \
	  touch $@; else echo "npm could not fetch anvil: tests that need a node will skip"; fi

lock: .venv/ready  ## pin everything anew, recording no address
	.venv/uv/bin/uv pip compile -q --all-extras --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade pyproject.toml \
	  -o requirements.lock

clean:
	rm -rf .venv build dist results
