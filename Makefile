# Everything runs in .venv, which is made on first use and again when what it is made from changes.
PYTHON ?= python3
RUN ?= runs/demo
BIN := .venv/bin
RESUME := $(if $(wildcard $(RUN)/config.json),--resume,)

.PHONY: demo test lint format bench reader clean

demo: .venv/ready  ## train the CAPTCHA model, draw, read back, report: eight to nine minutes on two cores
	$(BIN)/jensen train captcha --out $(RUN) $(RESUME)

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

bench: benchmarks/.venv/ready  ## side by side with a peer; let nothing else run
	for name in captcha_step unet_step sampler_error vae_step iwae_evaluation gan_step prdc frechet; do benchmarks/.venv/bin/python benchmarks/$$name.py || exit; done

reader: .venv/ready  ## train the shipped reader anew: about seven minutes
	$(BIN)/jensen train captcha-reader --out runs/reader
	$(BIN)/python -c "from jensen.recipes.sources.captcha import ship; from jensen.runs.opening import open_other; ship(open_other('runs/reader'))"

benchmarks/.venv/ready: pyproject.toml constraints.txt benchmarks/requirements.txt benchmarks/requirements-alone.txt
	test -x benchmarks/.venv/bin/python || $(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --disable-pip-version-check -q -c constraints.txt -e . -r benchmarks/requirements.txt
	benchmarks/.venv/bin/pip install --disable-pip-version-check -q --no-deps -r benchmarks/requirements-alone.txt
	touch $@

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

.venv/dev: .venv/ready
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv benchmarks/.venv
