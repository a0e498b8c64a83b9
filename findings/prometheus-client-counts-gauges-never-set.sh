#!/bin/sh
# prometheus_client: with several processes, a gauge's "min" and "max" take the 0 of each process that never set it.
#
# PROMETHEUS_MULTIPROC_DIR has each process write its values into a file of its own, and a gauge's multiprocess_mode says
# what to make of them: "min" the smallest, "max" the largest.  A gauge has its place in the file, with 0, as soon as it is
# made, that is, when the module with the metrics is imported: by a worker that has had no request yet, and by the parent
# that forks them and never sets anything.  So the least free space, the oldest age, or the lowest temperature of all is 0
# for ever, and the largest of negative values as well.  "mostrecent" knows who has set it.  A gauge with labels has its
# place when labels() is called, by those who set it, and is right.
#
# Seen with prometheus_client 0.26.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; a parent
# that imports the metrics, and two children that set 5 and 7, or -5 and -7:
#
#   without labels: min 0.0 (wanted 5), max 0.0 (wanted -5), mostrecent 7.0
#   with labels:    min 5.0 (wanted 5), max -5.0 (wanted -5), mostrecent 7.0
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prometheus_client==0.26.0

cat >"$folder/program.py" <<'PROGRAM'
import os
import sys

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

MODES = {"min": 1, "max": -1, "mostrecent": 1}
plain = {mode: Gauge(f"plain_{mode}", "Without labels", multiprocess_mode=mode) for mode in MODES}
labelled = {mode: Gauge(f"labelled_{mode}", "With labels", ["disk"], multiprocess_mode=mode) for mode in MODES}

for value in 5, 7:
    child = os.fork()
    if child == 0:
        for mode, sign in MODES.items():
            plain[mode].set(sign * value)
            labelled[mode].labels("a").set(sign * value)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

registry = CollectorRegistry()
MultiProcessCollector(registry)
found = {metric.name: metric.samples[0].value for metric in registry.collect() if metric.samples}
for text, kind in ("without labels:", "plain"), ("with labels:", "labelled"):
    least, most, recent = (found[f"{kind}_{mode}"] for mode in MODES)
    print(f"{text:15} min {least} (wanted 5), max {most} (wanted -5), mostrecent {recent}")
sys.exit(0 if found == {
    "plain_min": 0, "plain_max": 0, "plain_mostrecent": 7, "labelled_min": 5, "labelled_max": -5, "labelled_mostrecent": 7,
} else 1)
PROGRAM
mkdir "$folder/values"
PROMETHEUS_MULTIPROC_DIR="$folder/values" "$folder/venv/bin/python" "$folder/program.py"
