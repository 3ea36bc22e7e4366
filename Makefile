# Each target sets up what it needs; a second call does nothing but check.
# The environment comes first in PATH, since DVC's stages run `python` from there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export DVC_NO_ANALYTICS := 1
PYTHON ?= python3
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count())')

.DEFAULT_GOAL := help
.PHONY: help repro rebuild noise measure sweep replicate compare experiments review report export demo published gpu-files test test-all lint check readme lock clean

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 16

repro: .venv/run ## everything from raw images to metrics, as far as needed; ends with a verdict
	dvc repro
	@python tools/verdict.py

rebuild: .venv/run ## COMMIT=HEAD: all stages again in a fresh copy without caches, held against dvc.lock
	@python tools/rebuild.py $(COMMIT)

noise: repro ## trains with five seeds: the spread of every figure over seeds
	python tools/replicate.py --record
	python tools/readme.py

measure: repro ## seeds, budgets, sameness and pictures of this training, as far as not measured: hours
	python tools/replicate.py --record
	python benchmarks/recipe.py
	python benchmarks/sameness.py
	python benchmarks/sameness.py --small
	python benchmarks/pictures.py
	python tools/readme.py

sweep: .venv/run ## JOBS=1 CONFIRM=0: searches the space of sweep.yaml; each trial is a DVC experiment
	@python tools/sweep.py $(if $(JOBS),--jobs $(JOBS)) $(if $(CONFIRM),--confirm $(CONFIRM))

replicate: .venv/run ## EXP=... SEEDS=5: trains an experiment, a commit or the workspace with other seeds
	@python tools/replicate.py $(EXP) $(if $(SEEDS),--seeds $(SEEDS))

compare: .venv/run ## A=... B=... (commits, experiments or workspace) FAIL_IF=worse: which model is better
	@python tools/compare.py $(A) $(B) $(if $(PART),--part $(PART)) $(if $(FAIL_IF),--fail-if $(FAIL_IF)) \
		$(if $(TOLERANCE),--tolerance $(TOLERANCE)) $(if $(DIFFERENCE),--difference $(DIFFERENCE))

experiments: .venv/run ## the commit and its experiments, one line each: accuracy on val, seeds, verdict
	@python tools/experiments.py

review: .venv/run ## BASE=main OUT=FILE: what this branch changed, as Markdown
	@python tools/review.py $(BASE) $(if $(OUT),--out $(OUT))

report: .venv/run ## report.html: one page of results, curves, mistakes and experiments
	python tools/report.py

export: .venv/run ## models/model.onnx, for predict.py and any ONNX Runtime
	dvc repro export

demo: .venv/demo ## serves a page on this machine that classifies pictures you drop, paste or draw
	@test -e models/model.onnx || $(MAKE) export
	python src/demo.py

published: .venv/run ## the five published systems: trains those not up to date (from nothing: hours)
	@# stages that will run need the images, which a fresh clone does not have
	dvc repro --dry --allow-missing published/dvc.yaml | grep -q 'up to date' || dvc repro published/dvc.yaml:split
	dvc repro --allow-missing published/dvc.yaml
	python published/summary.py
	python tools/readme.py

gpu-files: .venv/run ## .gpu: what benchmarks/gpu.py needs on a machine with a GPU and without network
	@python benchmarks/gpu.py --pack .gpu

test: .venv/dev ## the test suite
	pytest -n $(WORKERS) --dist worksteal

test-all: .venv/dev ## the slow tests too, and 20 times as much fuzzing
	FUZZ_EXAMPLES=10000 pytest -n $(WORKERS) --dist worksteal -m ""

lint: .venv/dev ## formatter, linters and type checker
	ruff format --check .
	ruff check .
	mypy src tools published benchmarks tests
	zizmor --offline --quiet .github

check: .venv/run ## whether dvc.lock, dvc.yaml, figures and pages belong to this code
	python tools/check.py
	python published/summary.py --check
	python tools/readme.py --check

readme: .venv/run ## writes the committed figures into README.md and the other pages
	python published/summary.py
	python tools/readme.py

lock: .venv/dev ## resolves the dependencies of pyproject.toml into requirements*.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group run --output-file requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group dev --constraints requirements.txt --output-file requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --upgrade \
		--group demo --constraints requirements-dev.txt --output-file requirements-demo.txt

clean: ## removes the environment and the remains of unfinished runs; DVC's cache stays
	rm -rf .venv .cache published/*/.cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots

.venv/run: requirements.txt tools/offline_plots.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"error: Python must be 3.11 or later; received {sys.version.split()[0]} (choose with make PYTHON=...)")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	python -m pip install --quiet --requirement requirements.txt
	python tools/offline_plots.py
	touch $@

.venv/demo: requirements-demo.txt .venv/run
	python -m pip install --quiet --requirement requirements-demo.txt
	touch $@

.venv/dev: requirements-dev.txt .venv/run
	python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
