# What to do with this project; the work is done by the scripts in .ci/.
#
#   make demo      build, then measure the example application on three loops, with the newest Python that is here
#                  (PYTHON=3.13, or a path: another one)
#   make test      build and run the tests, each in one of the four ways, on the newest Python (ARGS="-k name": for pytest)
#                  VERSIONS=all: in all ways, on each of Python 3.11 to 3.15 that is here
#   make suites    tests that others wrote, compared with the standard loop (ARGS="cpython aiohttp --quick")
#   make fuzz      random programs, compared with the standard loop (ARGS="--minutes 60 --way kernel-own"; FLEXSC_WRITES=turn as well)
#   make lint      ruff, cython-lint, mypy, stubtest
#   make stress    the C tests of the page and the turn: plain, with faults, ThreadSanitizer, AddressSanitizer + UBSan;
#                  then the tests of calls that fail, with run-time assertions
#   make bars      measure the project's bars; takes long
#   make batches   the paper's micro-benchmark: what a call costs in a batch, on each kind of page, same core and another
#   make scenarios the scheduler's choices against fixed ones, with other programs about
#   make connections   1 to 20,000 connections
#   make blocking  unmodified blocking servers: plain threads, gevent, green threads
#   make report    all results on one page (HTML, no network): those measured here, the documented ones of all else
#   make files     measure files against other libraries, and fio where it is installed (ARGS="--only cached small")
#   make wheels    wheels for all supported Pythons, x86-64 and aarch64, glibc and musl, and the sdist: into build/wheels/
#   make build     build in place into .venv/
#   make clean     remove everything that was built
#   make help      this list, which `make` alone prints, too

# Python 3.11, or the next one that is here; programs are measured with the newest.
PYTHON ?= any
demo files batches scenarios connections blocking report: PYTHON := $(if $(filter any,$(PYTHON)),newest,$(PYTHON))
ARGS ?=

.PHONY: help demo test suites fuzz lint stress bars batches scenarios connections blocking files report wheels build clean

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@python=$$(.ci/venv make $(PYTHON) bench) && exec $$python -m benchmarks.demo $(ARGS)

test:
	@VERSIONS="$(VERSIONS)" .ci/test $(ARGS)

suites:
	@python=$$(.ci/venv make $(PYTHON) test) && exec $$python -m tests.suites $(ARGS)

fuzz: PYTHON := $(if $(filter any,$(PYTHON)),newest,$(PYTHON))
fuzz:
	@python=$$(.ci/venv make $(PYTHON) test) && exec $$python -m tests.fuzz $(ARGS)

lint:
	@.ci/lint $(PYTHON)

stress:
	@tests/c/run.sh all
	@tests/faulty.sh $(PYTHON)

bars:
	@if .ci/venv find 3.13 >/dev/null; then .ci/venv make 3.13 bench >/dev/null; fi
	@python=$$(.ci/venv make $(PYTHON) bench ecosystem) && exec $$python -m benchmarks.bars $(ARGS)

batches:
	@python=$$(.ci/venv make $(PYTHON) bench) && exec $$python -m benchmarks.batches $(ARGS)

scenarios:
	@python=$$(.ci/venv make $(PYTHON) bench) && exec $$python -m benchmarks.scenarios $(ARGS)

connections:
	@python=$$(.ci/venv make $(PYTHON) bench) && exec $$python -m benchmarks.connections $(ARGS)

blocking:
	@python=$$(.ci/venv make $(PYTHON) bench ecosystem) && exec $$python -m benchmarks.blocking $(ARGS)

files:
	@python=$$(.ci/venv make $(PYTHON) bench bench-files) && exec $$python -m benchmarks.files $(ARGS)

report:
	@python=$$(.ci/venv make $(PYTHON) bench) && exec $$python -m benchmarks.page $(ARGS)

wheels:
	@python=$$(.ci/venv make $(PYTHON) wheels) && exec $$python .ci/wheels.py $(ARGS)

build:
	@.ci/venv make $(PYTHON) test ecosystem bench lint

clean:
	rm -rf .venv build dist *.egg-info benchmarks/build tests/c/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find flexsc_loop -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
