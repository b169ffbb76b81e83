# Everything runs in .venv, which is made on first use and again when what it is made from changes.
PYTHON ?= python3
RUN ?= runs/demo
BIN := .venv/bin
RESUME := $(if $(wildcard $(RUN)/config.json),--resume,)

PIP := $(BIN)/pip install --disable-pip-version-check -q
BY_HASH := $(PIP) --no-deps --require-hashes -r

.PHONY: demo serve test lint format locked lock audit dist smoke bench clean

demo: .venv/ready  ## train the CAPTCHA model, draw, read back, report: eight to ten minutes on two cores
	$(BIN)/jensen train captcha --out $(RUN) $(RESUME)
	@echo "make serve    # serves CAPTCHAs that this model draws, on this machine"

serve: .venv/serve  ## serve CAPTCHAs on this machine: of the model of `make demo`, or of one that is part of jensen
	$(BIN)/jensen serve $(if $(wildcard $(RUN)/model.safetensors),$(RUN)) --demo

test: .venv/dev lint  ## everything that must hold
	$(BIN)/pytest -n 2 --dist loadfile

lint: .venv/dev  ## style, types, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

locked:  ## fill .venv with the files of lock/, each checked by its hash
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BY_HASH) lock/base.txt
	if $(PIP) --dry-run --no-deps "$$(grep -o '^torch==[^ ]*' lock/torch-cpu.txt)"; \
	then $(BY_HASH) lock/torch-cpu.txt; \
	else echo "the CPU build of torch is not found: installing the build of PyPI"; $(BY_HASH) lock/torch.txt; fi
	$(BIN)/pip check

lock: .venv/dev  ## rewrite constraints.txt and lock/ from pyproject.toml and the versions in constraints.txt
	$(BIN)/python tests/supply.py lock

audit: .venv/dev  ## licences, whether the lock is whole (needs no network), and known vulnerabilities (needs PyPI)
	$(BIN)/python tests/supply.py audit

dist: .venv/dev  ## the source archive, and the wheel that is built from it
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

smoke: dist  ## install the wheel into an empty environment and use it there
	rm -rf build/smoke
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/pip install --disable-pip-version-check -q -c constraints.txt dist/*.whl
	tests/smoke.sh build/smoke/bin

bench: benchmarks/.venv/ready  ## side by side with a peer; let nothing else run
	for name in captcha_step unet_step sampler_error vae_step iwae_evaluation gan_step prdc frechet; do benchmarks/.venv/bin/python benchmarks/$$name.py || exit; done

runs/%/report.html: .venv/ready
	$(BIN)/jensen train $* --out runs/$* $(if $(wildcard runs/$*/config.json),--resume,)

ship-%: runs/%/report.html  ## train a run that is part of jensen anew (captcha-reader: about seven minutes)
	$(BIN)/python -m jensen.runs.ship runs/$*

benchmarks/.venv/ready: pyproject.toml constraints.txt benchmarks/requirements.txt benchmarks/requirements-alone.txt
	test -x benchmarks/.venv/bin/python || $(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e . -r benchmarks/requirements.txt
	benchmarks/.venv/bin/pip install --disable-pip-version-check -q --no-deps -r benchmarks/requirements-alone.txt
	touch $@

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt hatchling editables
	$(PIP) -c constraints.txt --no-build-isolation -e .
	touch $@

.venv/serve: .venv/ready
	$(PIP) -c constraints.txt --no-build-isolation -e '.[serve,audio]'
	touch $@

.venv/dev: .venv/ready
	$(PIP) -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

clean:
	rm -rf .venv benchmarks/.venv
