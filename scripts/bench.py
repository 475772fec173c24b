#!/usr/bin/env python3
"""foldfs beside what one would use instead: `make bench`, as root.

Ratios count, not times: what is compared runs in turns (A B, B A, A B, ...) on the same file system
with the trees in the page cache, which is the unfavourable case for a program that computes
digests, and every timed run ends in `sync -f`. Medians are given with the lowest and the highest.

With at least five runs the table is written to docs/performance.md.
"""

import argparse
import os
import sys

from benchmark import daemon, folding, imports, report
from benchmark.harness import WORK, remove, rows, say

PARTS = {
    "import": imports.bench_import,
    "eight": imports.bench_eight,
    "fold": daemon.bench_fold,
    "first": folding.bench_first_pass,
    "pass": folding.bench_pass,
    "latency": folding.bench_latency,
    "million": folding.bench_million,
    "memory": daemon.bench_memory,
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=5, help="of each measurement (5)")
    arguments.add_argument("--only", choices=PARTS, action="append", help="leave the others out")
    arguments = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: root is needed: it imports and mounts root trees")
    remove(WORK)
    WORK.mkdir(parents=True)
    (WORK / "config.toml").touch()
    description = report.machine()
    say(description)
    for name in arguments.only or PARTS:
        PARTS[name](arguments.runs)
    remove(WORK)
    load = f"; load averages at the end {' '.join(f'{value:.1f}' for value in os.getloadavg())}"
    say(load[2:])
    if arguments.runs >= 5 and not arguments.only:
        report.write_report(arguments.runs, description + load)
        say("written to docs/performance.md")
    else:
        say("tried out: docs/performance.md takes at least five runs of everything")
    missed = [what for what, _, _, holds in rows if holds is False]
    if missed:
        sys.exit(f"bench: {len(missed)} of {len(rows)} bounds missed: {'; '.join(missed)}")


main()
