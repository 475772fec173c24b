"""The machine, and the table in docs/performance.md."""

import os
import platform
import time
from pathlib import Path

from .harness import ROOT, WORK, rows, run


def version(package):
    found = run("dpkg-query", "-W", "-f", "${Version}", package)
    return f"{package} {found}"


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
    versions = f"ostree {ostree.strip(chr(39))}, {version('fuse-overlayfs')}, {version('unionfs-fuse')}"
    commit = run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    return (f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, {kind},"
            f" Linux {platform.release()}, {release}, {versions};"
            f" foldfs at {commit}, {time.strftime('%Y-%m-%d')}")


def write_part(part, runs, description, load):
    """Puts the rows of one part into its place in docs/performance.md; all else is written by hand."""
    verdicts = {True: "yes", False: "**no**", None: ""}
    begin, end = f"<!-- bench {part} -->", f"<!-- end of {part} -->"
    lines = [
        begin,
        f"Medians of {runs} runs, with the lowest and the highest in brackets. {description}; {load}.",
        "",
        "| what | measured | bound | holds |",
        "|---|---|---|---|",
        *(f"| {what} | {measured} | {bound} | {verdicts[holds]} |" for what, measured, bound, holds in rows),
        end,
    ]
    page = ROOT / "docs/performance.md"
    before, found, rest = page.read_text().partition(begin)
    if not found:
        before, rest = f"{before.rstrip()}\n\n", f"{end}\n"
    _, _, after = rest.partition(end)
    page.write_text(before + "\n".join(lines) + after)
