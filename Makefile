# Each target sets up what it needs; a second call does nothing but check.
# The environment comes first in PATH, since DVC's stages run `python` from there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export DVC_NO_ANALYTICS := 1
unexport PYTHONSAFEPATH # with which scripts do not find the modules beside them
PYTHON ?= python3
# make adopt removes it, but for what git ignores
published := $(if $(wildcard published/claims.yaml),published)

# Names of branches and files are data: make does not expand them, and recipes read them as variables of the shell.
VARIABLES := A B BASE COMMIT CONFIRM DIFFERENCE EXP FAIL_IF GITHUB_ACTIONS JOBS OUT PART PORT PYTHON SEEDS TOLERANCE WORKERS
$(foreach name,$(VARIABLES),$(if $(value $(name)),$(eval override $(name) := $$(value $(name)))$(eval export $(name))))

.DEFAULT_GOAL := help
.PHONY: help repro duration rebuild noise measure sweep replicate compare experiments watch review data-diff report export demo published adopt gpu-files test test-all lint audit check readme site lock lock-torch clean repository

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

repro: duration .venv/run ## everything from raw images to metrics, as far as needed; ends with a verdict
	dvc repro
	@python tools/verdict.py

duration: | repository # of the first make repro, where README.md has it, which make check holds to what was measured
	@test -e models/model.keras || cat README.md 2>/dev/null | \
		sed -n 's/^In a fresh clone it takes/make repro takes, in a fresh clone,/p'

rebuild: .venv/run ## COMMIT=HEAD: all stages again in a fresh copy without caches, compared with dvc.lock
	@python tools/rebuild.py -- $${COMMIT:+"$$COMMIT"}

noise: repro ## trains with five seeds: the spread of every figure over seeds
	python tools/replicate.py --record
	python tools/readme.py
	python benchmarks/tables.py

measure: repro ## seeds, recipes, speed, a fresh clone, docs/change.md, sameness, pictures, re-splits, where not yet measured: hours
	python tools/replicate.py --record
	python benchmarks/verdicts.py
	python benchmarks/recipe.py
	python benchmarks/speed.py
	python benchmarks/clone.py
	python benchmarks/change.py
	python benchmarks/sameness.py
	python benchmarks/sameness.py --small
	python benchmarks/arithmetic.py --under ""
	python benchmarks/pictures.py
	python benchmarks/latency.py
	python benchmarks/own_images.py
	python benchmarks/resplits.py --systems default
	python tools/readme.py
	python benchmarks/tables.py

sweep: .venv/run ## JOBS=1 CONFIRM=0: searches the space of sweep.yaml; each trial is a DVC experiment
	@python tools/sweep.py $${JOBS:+--jobs="$$JOBS"} $${CONFIRM:+--confirm="$$CONFIRM"}

replicate: .venv/run ## EXP=... SEEDS=5: trains an experiment, a commit or the workspace with other seeds
	@python tools/replicate.py $${SEEDS:+--seeds="$$SEEDS"} -- $${EXP:+"$$EXP"}

compare: .venv/run ## A=HEAD B=workspace (or commits, experiments) PART=val FAIL_IF=worse TOLERANCE=0 DIFFERENCE=0.3: which model is better
	@python tools/compare.py $${PART:+--part="$$PART"} $${FAIL_IF:+--fail-if="$$FAIL_IF"} \
		$${TOLERANCE:+--tolerance="$$TOLERANCE"} $${DIFFERENCE:+--difference="$$DIFFERENCE"} \
		-- "$${A:-HEAD}" $${B:+"$$B"}

experiments: .venv/run ## the commit and its experiments, one line each: accuracy on val, seeds, verdict
	@python tools/experiments.py

watch: .venv/run ## the curves of the training that runs here, in the terminal
	@python tools/watch.py

review: .venv/run ## BASE=... OUT=FILE: what this branch changed since it left BASE, as Markdown
	@python tools/review.py $${OUT:+--out="$$OUT"} -- $${BASE:+"$$BASE"}

data-diff: .venv/run ## A=HEAD B=workspace OUT=FILE: rows added, removed, relabelled and moved, as Markdown
	@python tools/data_diff.py $${OUT:+--out="$$OUT"} -- "$${A:-HEAD}" $${B:+"$$B"}

report: .venv/run ## report.html: one page of results, curves, mistakes and experiments
	python tools/report.py

export: .venv/run ## models/model.onnx, for predict.py and any ONNX Runtime
	dvc repro export

demo: .venv/demo ## PORT=8000: serves a page on this machine that classifies pictures you drop, paste or draw
	@test -e models/model.onnx || $(MAKE) export
	python src/demo.py $${PORT:+--port="$$PORT"}

published: .venv/run ## the five published systems: trains those not up to date (from nothing: hours)
	@# stages that will run need the images, which a fresh clone does not have
	(cd published && dvc repro --dry --allow-missing) | grep -q 'up to date' || dvc repro prepare
	cd published && dvc repro --allow-missing
	python published/summary.py
	python tools/readme.py
	python benchmarks/tables.py

adopt: .venv/run ## once data.source is folder or idx: removes what belongs to Fashion-MNIST
	@python tools/adopt.py
	@python tools/readme.py
	@python benchmarks/tables.py

gpu-files: .venv/run ## .gpu: what benchmarks/gpu.py needs on a machine with a GPU and without network
	@python benchmarks/gpu.py --pack .gpu

test: .venv/dev ## WORKERS=logical: the test suite
	pytest -n "$${WORKERS:-logical}" --dist worksteal

test-all: .venv/dev ## the slow tests too, and 10 times as much fuzzing
	FUZZ_EXAMPLES=5000 pytest -n "$${WORKERS:-logical}" --dist worksteal -m ""

lint: .venv/dev ## formatter, linters and type checker
	ruff format --check .
	ruff check .
	mypy src tools $(published) benchmarks tests docs/site/stage.py
	nbstripout --verify notebooks/*.ipynb
	zizmor --offline --quiet .github
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --quiet --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(if $(wildcard CITATION.cff),check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff)
	hadolint Dockerfile

offline := ^requests\.exceptions\.((Connection|Proxy|SSL)Error|(Connect|Read)Timeout)|Could not connect to OSV

# a runner of GitHub's has a network: there nothing is skipped
audit: .venv/dev ## known vulnerabilities of the locked versions, as OSV has them; skipped offline
	@mkdir -p .cache
	@pip-audit --vulnerability-service osv --disable-pip --no-deps --progress-spinner off \
		--requirement requirements-dev.txt --requirement requirements-site.txt >.cache/audit 2>&1 && cat .cache/audit || \
		{ test -z "$$GITHUB_ACTIONS" && grep -qE '$(offline)' .cache/audit \
		&& echo 'skipped: OSV cannot be reached'; } || { cat .cache/audit; exit 1; }

check: .venv/run ## whether dvc.lock, figures and pages belong to this code
	python tools/check.py
	$(if $(published),python published/summary.py --check)
	python tools/readme.py --check
	python benchmarks/tables.py --check

readme: .venv/run ## writes the committed figures into README.md and the other pages
	$(if $(published),python published/summary.py)
	python tools/readme.py
	python benchmarks/tables.py

site: .venv/site ## site/index.html: the pages as a site with search, for a browser without network; with report.html, if made
	@python docs/site/stage.py
	@zensical build --strict --config-file .cache/site/zensical.toml
	@rm -rf site && mv .cache/site/html site
	@! test -e report.html || cp report.html site/report.html

# requirements*.txt have the versions, for any installer; locks/ has the same with the hash of every file
compile = uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	$(if $(value UPGRADE),--upgrade)
hashed = --generate-hashes --no-emit-package torch

lock: .venv/dev ## UPGRADE=1: resolves the dependencies of pyproject.toml into requirements*.txt and locks/
	$(compile) --group run --output-file requirements.txt
	$(compile) --group dev --constraints requirements.txt --output-file requirements-dev.txt
	$(compile) --group demo --constraints requirements-dev.txt --output-file requirements-demo.txt
	$(compile) --group site --constraints requirements-dev.txt --output-file requirements-site.txt
	$(compile) --group run $(hashed) --constraints requirements.txt --output-file locks/run.txt
	$(compile) --group dev $(hashed) --constraints requirements-dev.txt --output-file locks/dev.txt
	$(compile) --group demo $(hashed) --constraints requirements-demo.txt --output-file locks/demo.txt
	$(compile) --group site $(hashed) --constraints requirements-site.txt --output-file locks/site.txt

lock-torch: .venv/dev ## after another torch in pyproject.toml: the hashes of PyTorch's CPU build, and of PyPI's
	grep '^torch==' requirements.txt | $(compile) --no-deps --generate-hashes --torch-backend cpu \
		--output-file locks/torch.txt -
	grep '^torch==' requirements.txt | $(compile) --no-config --generate-hashes --constraints requirements.txt \
		--output-file locks/cuda.txt -

clean: ## removes the environment and .cache (checkpoints, unfinished sweeps); DVC's cache and experiments stay
	rm -rf data/.*.part data/prepared/.*.part data/.*.old metrics/.*.part plots/.*.part models/.*.part .venv .cache published/*/.cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dvc_plots site

# An environment that was moved, lost its pip, or has another Python than it was made with, is made anew.
state := .venv/bin/python -Ic 'import os, pip, sys; print(os.path.realpath(pip.__path__[0]), sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))'
whole := test "`$(state) 2>&1`" = "`cat .venv/state 2>&1`"
$(shell $(whole) || rm -f .venv/run)

# git with a commit, which DVC, its experiments and the verdicts need. An unpacked archive gets a repository of its own.
repository:
	@test -L benchmarks/common.py || { echo 'error: links must be links (git config core.symlinks true && git restore' \
		'benchmarks $(published)); received benchmarks/common.py, a file' >&2; exit 1; }
	@if git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then exit; fi; \
	said=$$(LC_ALL=C git rev-parse --git-dir 2>&1); \
	case "$$?, $$said" in \
	127*) echo 'error: git must be installed; received no git in PATH' ;; \
	0*) echo 'error: git must have a commit here (git add --all && git commit); received a repository without one' ;; \
	*'not a git repository'*) echo 'There is no git repository here: one is made, with these files as its first commit.' && \
		git init --quiet --initial-branch=main && git add --all && \
		git -c user.name=archive -c user.email=archive@localhost commit --quiet --no-verify --no-gpg-sign \
			--message 'Unpacked archive' && exit ;; \
	*) echo error: git must be able to read this repository, but said: "$$said" | tr -s '\n\t' '  ' && echo ;; \
	esac >&2; exit 1

# Whatever is installed has the hash that its lock names. PyTorch is its CPU build: from a folder that pip is set to
# search (PIP_FIND_LINKS), else from PyTorch's own index, whose address uv knows; else it is PyPI's with CUDA.
# The locks are whole, so pip need not look for dependencies, and `pip check` holds them to it.
install := python -m pip install --quiet --require-hashes --no-deps --requirement

.venv/run: locks/run.txt locks/torch.txt locks/cuda.txt tools/offline_plots.py | repository
	@"$$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) and f"error: Python must be 3.11 to 3.14; received {sys.version.split()[0]} (choose with make PYTHON=...)")'
	@$(whole) || { test ! -e .venv/state && $(state) >/dev/null 2>&1; } || { test ! -e .venv || \
		echo '.venv is of another folder or Python, or has no pip: it is made anew.'; rm -rf .venv; "$$PYTHON" -m venv .venv; }
	@$(state) >.venv/state
	$(install) locks/run.txt --no-compile
	$(install) locks/torch.txt --no-compile --no-index 2>/dev/null || uv pip install --quiet --python .venv \
		--require-hashes --no-deps --torch-backend cpu --requirement locks/torch.txt || \
		{ echo "PyTorch's index cannot be reached: its build with CUDA comes, 2.7 GB"; $(install) locks/cuda.txt --no-compile; }
	python -m compileall -qq -j 0 .venv/lib || true # pip too passes over files of a later Python, but has one core
	python tools/offline_plots.py
	touch $@

.venv/demo: locks/demo.txt .venv/run
	$(install) locks/demo.txt
	touch $@

.venv/site: locks/site.txt .venv/run
	$(install) locks/site.txt
	touch $@

.venv/dev: locks/dev.txt .venv/run
	$(install) locks/dev.txt
	python -m pip check
	touch $@
