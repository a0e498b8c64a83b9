#!/bin/sh
# Build the package with faults on demand and run-time assertions into a folder of its own, and run tests on it.
#
#   tests/faulty.sh [PYTHON-VERSION] [PYTEST-ARGUMENT...]      (any: the first Python that is here; tests/test_faults*.py)
#
# The environment says which faults there are (flexsc_loop/syscalls/faults.h): FLEXSC_FAULTS="SEED ONE_IN CALLS RESULTS".
# They set it for themselves; other tests run with what is given here, or with the assertions only.
set -eu

cd "$(dirname "$0")/.."
python=${PYTHON:-$(.ci/venv make "${1:-any}" test)}
[ $# -eq 0 ] || shift
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
built=build/faulty/$version
mkdir -p "$built"
# What fails here is for a debugger.
export CFLAGS="${CFLAGS--g}"
# The compiler looks at the dates of sources only.
force=
[ ! -e "$built/build.log" ] || [ -z "$(find flexsc_loop pyproject.toml -name "*.[hp]*d" -newer "$built/build.log" -o -name "*.h" -newer "$built/build.log")" ] || force=--force
"$python" -c 'from setuptools import setup; setup()' build --build-lib "$built/lib" --build-temp "$built/temp" \
    build_ext -j2 --define FLEXSC_FAULTS,FLEXSC_CHECKS $force >"$built/build.log" 2>&1 ||
    { cat "$built/build.log"; exit 1; }
[ $# -gt 0 ] || set -- tests/test_faults*.py
PYTHONPATH=$built/lib exec "$python" -P -m pytest -q "$@"
