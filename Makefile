# Each target sets up what it needs; a second call does nothing but check.
# The environment comes first in PATH, since DVC's stages run `python` from there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export DVC_NO_ANALYTICS := 1
PYTHON ?= python3
# one more than there are cores, since tests also wait: for servers, for processes to end
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(1 + os.cpu_count())')

.DEFAULT_GOAL := help
.PHONY: help repro noise sweep compare review report export demo published test test-all lint check readme lock clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

repro: .venv/run ## from nothing to metrics: runs every stage that is not up to date
	dvc repro

noise: repro ## the same training with five seeds: how much of a difference is chance
	python src/noise.py
	python src/readme.py

sweep: .venv/run ## JOBS=1: searches what sweep.yaml says, each trial a DVC experiment
	@python src/sweep.py $(if $(JOBS),--jobs $(JOBS))

compare: .venv/run ## A=... B=... (commits, experiments or workspace): which model is better
	@python src/compare.py $(A) $(B) $(if $(PART),--part $(PART))

review: .venv/run ## BASE=main OUT=file: what this change did, as Markdown
	@python src/review.py $(BASE) $(if $(OUT),--out $(OUT))

report: .venv/run ## report.html: results, curves, mistakes and experiments on one page
	python src/report.py

export: .venv/run ## models/model.onnx, for predict.py and any ONNX Runtime
	dvc repro export

demo: .venv/demo ## a page on this machine where one drops, pastes or draws a picture
	@test -e models/model.onnx || $(MAKE) export
	python src/demo.py

published: .venv/run ## the published systems: trains what is not up to date (hours from nothing)
	@# what is to run needs the images, which a fresh clone has not
	dvc repro --dry --allow-missing published/dvc.yaml | grep -q 'up to date' || dvc repro published/dvc.yaml:split
	dvc repro --allow-missing published/dvc.yaml
	python src/published.py
	python src/readme.py

test: .venv/dev ## the test suite
	pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test-all: .venv/dev ## the slow tests too, and 20 times as much fuzzing
	FUZZ_EXAMPLES=10000 pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m ""

lint: .venv/dev ## formatter, linters and type checker
	ruff format --check .
	ruff check .
	mypy src tests benchmarks
	zizmor --offline --quiet .github

check: .venv/run ## that every dvc.lock, dvc.yaml, figure and page belongs to this code
	python src/check.py
	python src/published.py --check
	python src/readme.py --check

readme: .venv/run ## writes the figures that are committed into README.md and the other pages
	python src/published.py
	python src/readme.py

lock: .venv/dev ## resolves the dependencies in pyproject.toml into requirements*.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group run --output-file requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group dev --constraints requirements.txt --output-file requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group demo --constraints requirements-dev.txt --output-file requirements-demo.txt

clean: ## removes the environment and what unfinished runs left behind; data and models stay in DVC's cache
	rm -rf .venv .cache published/*/.cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots

.venv/run: requirements.txt src/offline_plots.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python must be 3.11 or later; received {sys.version.split()[0]} (choose with make PYTHON=...)")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	python -m pip install --quiet --requirement requirements.txt
	python src/offline_plots.py
	touch $@

.venv/demo: requirements-demo.txt .venv/run
	python -m pip install --quiet --requirement requirements-demo.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/run
	python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
