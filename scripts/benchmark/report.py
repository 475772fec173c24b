"""The machine, and the table in docs/performance.md."""

import os
import platform
import time
from pathlib import Path

from .harness import ROOT, WORK, rows, run


def machine():
    model = next((line.split(":", 1)[1].strip() for line in
                  Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                 platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    kind = run("stat", "-f", "-c", "%T", WORK).strip()
    release = next((line.split("=", 1)[1].strip('"') for line in
                    Path("/etc/os-release").read_text().splitlines()
                    if line.startswith("PRETTY_NAME=")), "")
    ostree = run("ostree", "--version").splitlines()[1].strip().strip("'").replace("Version: ", "")
    commit = run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    return (f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, {kind},"
            f" Linux {platform.release()}, {release}, ostree {ostree.strip(chr(39))};"
            f" foldfs at {commit}, {time.strftime('%Y-%m-%d')}")


def write_report(runs, description):
    verdicts = {True: "yes", False: "**no**", None: ""}
    lines = [
        "# Performance",
        "",
        "Written by `make bench`. Compared programs ran in turns on the same file system, with the",
        f"trees in the page cache; each timed run ended in `sync -f`. Medians of {runs} runs, with the",
        "lowest and the highest in brackets.",
        "",
        f"Machine: {description}.",
        "",
        "| what | measured | bound | holds |",
        "|---|---|---|---|",
        *(f"| {what} | {measured} | {bound} | {verdicts[holds]} |" for what, measured, bound, holds in rows),
        "",
    ]
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs/performance.md").write_text("\n".join(lines))
