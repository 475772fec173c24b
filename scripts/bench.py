#!/usr/bin/env python3
"""foldfs beside what one would use instead: `make bench`, as root.

Ratios count, not times: what is compared runs in turns (A B, B A, A B, ...) on the same file system
with the trees in the page cache, which is the unfavourable case for a program that computes
digests, and every timed run ends in `sync -f`. Medians are given with the lowest and the highest.

With at least five runs what a part measures is written to its place in docs/performance.md.
"""

import argparse
import os
import sys

from benchmark import changes, daemon, data, folding, guests, imports, names, patches, report, scale, walk, work
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
    "walk": walk.bench_walk,
    "data": data.bench_data,
    "names": names.bench_names,
    "work": work.bench_work,
    "scale": scale.bench_scale,
    "diff": changes.bench_diff,
    "changes": changes.bench_changes,
    "patch": patches.bench_patch,
    "boot": guests.bench_boot,
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
    missed, measured = [], 0
    for name in arguments.only or PARTS:
        rows.clear()
        PARTS[name](arguments.runs)
        load = f"load averages at the end {' '.join(f'{value:.1f}' for value in os.getloadavg())}"
        say(f"  {load}")
        if arguments.runs >= 5:
            report.write_part(name, arguments.runs, description, load)
        measured += len(rows)
        missed += [what for what, _, _, holds in rows if holds is False]
    remove(WORK)
    say("written to docs/performance.md" if arguments.runs >= 5
        else "tried out: docs/performance.md takes at least five runs")
    if missed:
        sys.exit(f"bench: {len(missed)} of {measured} bounds missed: {'; '.join(missed)}")


main()
