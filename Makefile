PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow test-lowest coverage wheel snapshots models prompts fuzz kill same mutate lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

# the main job on the embedded lab: what the model ignored, and the same seed repaired
demo: $(STAMP)
	$(BIN)/accord realign "two yellow stars and a purple moon" "a green fish and a pink heart" \
	  "three pink hearts" --seed 1 --seed 2 --mode same_seed --out out/demo
	@echo "before, regions and after side by side:" && ls out/demo/*/strip.png
	@echo "all of them on one page: $(CURDIR)/out/demo/index.html"
	@echo "to look at them in the browser, and to make others: $(BIN)/accord studio --show out/demo"

lint: $(STAMP)
	$(BIN)/ruff check src tests docs examples integrations
	$(BIN)/ruff format --check src tests docs examples integrations
	$(BIN)/mypy
	$(BIN)/lint-imports

# two processes of one thread each: most tests are too small to share among threads
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# the same tests, slower, and which lines of the package none of them runs
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov=accord --cov=accord_lab --cov-report=term

# the lowest versions that pyproject.toml promises, in a venv of their own, made anew: a download of some gigabytes
LOWEST := .venv-lowest
LOWEST_TESTS := test_package test_cli test_models test_equations test_context_equations test_joint test_rewards \
  test_score test_generate test_prompts test_training
test-lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python $(PIP_INSTALL) -c constraints-lowest.txt -e '.[all]' \
	  $$(grep -E '^(hypothesis|pytest|pytest-timeout|pytest-xdist)==' constraints.txt)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist worksteal $(LOWEST_TESTS:%=tests/%.py)

# the package as others get it: built, compared with what git has, installed into an empty venv, used in another folder
wheel:
	rm -rf build dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m zipfile -l dist/*.whl | cut -d' ' -f1 | sort > dist/contents.txt
	git ls-files src | sed 's,src/,,' | sort | comm -23 - dist/contents.txt \
	  | sed 's/^/not in the wheel: /' | (! grep .)
	place=$$(mktemp -d) && trap 'rm -rf "$$place"' EXIT && $(PYTHON) -m venv "$$place/venv" && \
	  "$$place/venv/bin/python" $(PIP_INSTALL) -c constraints.txt dist/*.whl && cd "$$place" && \
	  venv/bin/accord info && venv/bin/accord generate "two green fish" && ls out/generate/*.png

# what tests/test_snapshots.py compares with: public names, signatures and every command's help
snapshots: $(STAMP)
	ACCORD_SNAPSHOTS=write $(BIN)/python -m pytest tests/test_snapshots.py

# docs/models.md: what the contract test finds all families to do, slow questions too
models: $(STAMP)
	ACCORD_MODELS=write $(BIN)/python -m pytest tests/test_contract.py -m ""

# docs/bench/prompts.md: how many of the committed prompts are taken apart rightly
prompts: $(STAMP)
	$(BIN)/python tests/prompts/report.py

# 10,000 damaged inputs and all bad command lines; 100 kills over all that can be resumed; docs/bench/robustness.md
fuzz: $(STAMP)
	$(BIN)/python tests/robustness/fuzz.py --count 10000 --out docs/bench

kill: $(STAMP)
	$(BIN)/python tests/robustness/kill.py --count 100 --out docs/bench

# whether commands still make what they made at another commit, byte for byte: make same COMMIT=...
same: $(STAMP)
	$(BIN)/python tests/same_as.py $(COMMIT)

# flip a sign, drop a term: every mutant of the losses, the guard and the equations is to be noticed; docs/bench/mutation.md
mutate: $(STAMP)
	$(BIN)/python tests/mutation/mutate.py --out docs/bench

clean:
	rm -rf $(VENV) $(LOWEST) out build dist *.egg-info src/*.egg-info
