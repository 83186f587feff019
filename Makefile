PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow snapshots fuzz kill mutate lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,parquet,train,sentence,video,dev]'
	touch $(STAMP)

# the main job on the embedded lab: what the model ignored, and the same seed repaired
demo: $(STAMP)
	$(BIN)/accord realign "two yellow stars and a purple moon" "a green fish and a pink heart" \
	  "a red star to the left of a blue key" --seed 1 --seed 2 --mode same_seed --out out/demo
	@echo "before, regions and after side by side:" && ls out/demo/*/strip.png

lint: $(STAMP)
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# two processes of one thread each: most tests are too small to share among threads
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# what tests/test_snapshots.py compares with: public names, signatures and every command's help
snapshots: $(STAMP)
	ACCORD_SNAPSHOTS=write $(BIN)/python -m pytest tests/test_snapshots.py

# 10,000 damaged inputs and all bad command lines; 100 kills over all that can be resumed; docs/bench/robustness.md
fuzz: $(STAMP)
	$(BIN)/python tests/robustness/fuzz.py --count 10000 --out docs/bench

kill: $(STAMP)
	$(BIN)/python tests/robustness/kill.py --count 100 --out docs/bench

# flip a sign, drop a term: every mutant of the losses, the guard and the equations is to be noticed; docs/bench/mutation.md
mutate: $(STAMP)
	$(BIN)/python tests/mutation/mutate.py --out docs/bench

clean:
	rm -rf $(VENV) out build *.egg-info src/*.egg-info
