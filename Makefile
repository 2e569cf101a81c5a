# make demo [CODE=~/my/projects] [RUN=runs/mine] [SET="train.steps=500"]   the main job on real code, in runs/demo
# make test                                      the test suite, without the part that compiles kernels and builds
# make test-slow                                 that part
# make lint                                      style and types: ruff, mypy, clang-format
# make format                                    what ruff and clang-format can fix by themselves
# make versions                                  tests with the oldest and newest libraries, in .versions/
# make wheel                                     a wheel in dist/
# make fuzz [RUNS=1000000] [CLANG=clang++-14]    the deduper's C++ on any bytes, with sanitizers
#
# With CODE, every language is kept, however little there is of it.
# Each command sets up .venv the first time. `make PYTHON=python3.12 …` chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FOR_HERE := $(VENV)/.installed-for-this-machine
SOURCES := $(shell find csrc codeshell -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' -o -name '*.inc' -o -name '*.cmake') CMakeLists.txt setup.py
CODE ?=
SET ?=
RUN ?= runs/demo
RUNS ?= 1000000
CLANG ?= clang++

.PHONY: demo test test-slow versions lint format fuzz install wheel clean build-extension

# The demo is content with kernels for the GPUs of this machine; a build for all of them serves it, too.
demo: $(or $(wildcard $(STAMP)),$(FOR_HERE))
	@$(BIN)/codeshell run recipes/demo.toml -o $(RUN) $(foreach path,$(CODE),--input "$(path)") \
	  $(if $(CODE),--set rules.language_floor=0) $(foreach item,$(SET),--set "$(item)")
	@echo "open $(RUN)/report.html in a browser"

# Two processes run the tests, and each test file stays in one process. OpenMP's threads sleep while they wait;
# otherwise they would spin on a core that the other process needs. Bytecode is kept, also where the environment forbids
# it (containers do): each process would compile hundreds of files anew.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

versions: $(VENV)/.installed-dev
	$(BIN)/python tools/versions.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')

fuzz:
	$(PYTHON) tests/fuzz/fuzz.py --runs $(RUNS) --clang $(CLANG)

install: $(STAMP)

wheel: $(STAMP)
	$(BIN)/pip wheel --no-deps -w dist .

# The file is the mark of a whole environment: what an interrupted command has left is made again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "codeshell needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Names of packages that pyproject.toml lists: those of an extra, or those that codeshell always needs ("base").
LISTED = $(BIN)/python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*{"base": project["dependencies"], **project["optional-dependencies"]}[sys.argv[1]], sep="\n")'

# torch comes first, with its exact version: given a range, pip could choose another build of it.
$(VENV)/.packages: constraints.txt pyproject.toml | $(VENV)/.made
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)"
	@$(LISTED) base > $(VENV)/base.txt
	$(BIN)/pip install -q -c constraints.txt -r $(VENV)/base.txt
	@touch $@

build-extension: | $(VENV)/.made
	$(BIN)/pip install -q --no-deps -e .

# The build needs none of the packages, so both come at once. The mark holds what was built, and is written at the end.
INSTALL = $(MAKE) --no-print-directory -j2 $(VENV)/.packages build-extension && \
  $(BIN)/codeshell info > $@.new && cat $@.new && mv $@.new $@

$(STAMP): constraints.txt pyproject.toml $(SOURCES) | $(VENV)/.made
	@$(INSTALL)
	@rm -f $(FOR_HERE)

# Kernels for the GPUs that nvidia-smi finds; none where there is none that they run on.
$(FOR_HERE): constraints.txt pyproject.toml $(SOURCES) | $(VENV)/.made
	@if nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | grep -Eq '^([89]|[1-9][0-9])\.'; \
	  then : "$${CODESHELL_ARCHITECTURES:=native}"; else : "$${CODESHELL_CUDA:=0}"; fi; \
	  export CODESHELL_ARCHITECTURES CODESHELL_CUDA; $(INSTALL)

# Only the packages of the extra `dev` are installed, not the package again: pip would rebuild the extension for minutes.
$(VENV)/.installed-dev: $(STAMP)
	@$(LISTED) dev > $(VENV)/dev.txt
	$(BIN)/pip install -q -c constraints.txt -r $(VENV)/dev.txt
	@touch $@

clean:
	rm -rf build dist *.egg-info codeshell/*.so $(STAMP) $(FOR_HERE)
