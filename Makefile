# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTHON_FILES := ros_ws/src offline_training sim export tests benchmarks

# Nothing leaves this machine over DDS, and one thread is the safe default on shared cores.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export OMP_NUM_THREADS := 1

.PHONY: help demo test check format schema clean

help:
	@echo "make demo    record, convert, train, export, drive behind the gate (about 10 minutes)"
	@echo "make test    all checks, then all tests"
	@echo "make check   format, lint, types, import contracts"
	@echo "make format  rewrite the source in the house format"
	@echo "make clean   remove $(VENV) and everything built"

demo: $(VENV)/ready
	$(BIN)/python sim/demo.py

# Files in the order of their names: by the number of tests, the long ones would come last, alone.
test: check
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready
	@echo "== format, lint, types, import contracts"
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/ready
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/ruff check --fix $(PYTHON_FILES)

# A stamp that depends on what is installed: an edit of either file installs again.
$(VENV)/ready: pyproject.toml constraints.txt
	@echo "== making $(VENV) and installing what is pinned in constraints.txt (about 5 minutes, 3 GB)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or 3.12 is needed; make PYTHON=python3.11" if not (3, 11) <= sys.version_info[:2] <= (3, 12) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The JSON Schema that editors use to complete and check robot files.
schema: $(VENV)/ready
	$(BIN)/python -c "import json, offrl_contract as o; print(json.dumps(o.Robot.model_json_schema(), indent=1))" > robots/robot.schema.json

clean:
	rm -rf $(VENV) ros_ws/build ros_ws/install ros_ws/log demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis
