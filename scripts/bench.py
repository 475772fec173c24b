#!/usr/bin/env python3
"""foldfs beside what one would use instead: `make bench`, as root.

Ratios count, not times: what is compared runs in turns (A B, B A, A B, ...) on the same file system
with the trees in the page cache, which is the unfavourable case for a program that computes
digests, and every timed run ends in `sync -f`. Medians are given with the lowest and the highest.

With at least five runs the table is written to docs/performance.md.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TREES = Path(os.environ.get("FOLDFS_TREES", ROOT / "target/trees"))
WORK = ROOT / "target/bench"
FOLDFS = BUILT / "foldfs"
EIGHT = ["minbase", "web", "postgresql", "numpy", "upgraded", "otherrelease", "changed200", "standard"]
BLOCK = 4096
MIB = 1 << 20

ENVIRONMENT = dict(os.environ, LC_ALL="C")
ENVIRONMENT.pop("FOLDFS_STORE", None)

rows = []


def say(text):
    print(text, flush=True)


def report(what, measured, bound, holds):
    """One line of the table. `holds` is None where nothing is promised."""
    rows.append((what, measured, bound, holds))
    verdict = {True: "ok", False: "MISSED", None: ""}[holds]
    say(f"  {what}: {measured}   {bound} {verdict}".rstrip())


def run(*command, quiet=True):
    done = subprocess.run(
        [str(word) for word in command],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr or ''}")
    return done.stdout


def settings(store):
    """This store, and none of what this machine's foldfs is configured to do."""
    return "--store", store, "--config", WORK / "config.toml"


def foldfs(store, *words):
    return run(FOLDFS, *settings(store), *words)


def foldfs_json(store, *words):
    return json.loads(foldfs(store, "--json", *words))


def timed(directory, work):
    """Seconds that `work` takes until what it wrote below `directory` is on the disk."""
    run("sync", "-f", WORK)
    started = time.monotonic()
    work()
    run("sync", "-f", directory)
    return time.monotonic() - started


def fresh(name):
    path = WORK / name
    remove(path)
    return path


def remove(path):
    if path.exists():
        run("rm", "-rf", "--one-file-system", path)


def spread(values, digits=2):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def allocated(path):
    return int(run("du", "-s", "--block-size=1", path).split()[0])


def entries(tree):
    """Every path of a tree with its lstat."""
    yield tree, os.lstat(tree)
    for directory, names, files in os.walk(os.fsencode(tree)):
        for name in names + files:
            path = os.path.join(directory, name)
            yield path, os.lstat(path)


def warm(trees):
    for tree in trees:
        for path, status in entries(TREES / tree):
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    while file.read(MIB):
                        pass


def in_turns(runs, sides):
    """Runs each of `sides` (name: function that returns numbers by name) in turns."""
    found = {name: [] for name in sides}
    for number in range(runs):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            found[name].append(sides[name]())
    return found


def ratios(found, ours, theirs, field):
    return [a[field] / b[field] for a, b in zip(found[ours], found[theirs])]


def column(found, side, field):
    return [values[field] for values in found[side]]


# ---- import beside cp -a ----


def bench_import(runs):
    say("import beside cp -a: a minbase, then a clone of it with 200 files changed")
    warm(["minbase", "changed200"])

    def ours():
        store = fresh("store")
        foldfs(store, "init")
        times = {
            "first": timed(store, lambda: foldfs(store, "import", "first", TREES / "minbase")),
            "second": timed(store, lambda: foldfs(store, "import", "second", TREES / "changed200")),
        }
        remove(store)
        return times

    def theirs():
        copies = fresh("copies")
        copies.mkdir()
        times = {
            "first": timed(copies, lambda: run("cp", "-a", TREES / "minbase", copies / "first")),
            "second": timed(copies, lambda: run("cp", "-a", TREES / "changed200", copies / "second")),
        }
        remove(copies)
        return times

    found = in_turns(runs, {"foldfs": ours, "cp": theirs})
    for field, what, bound in [
        ("first", "import into an empty store / cp -a", 1.5),
        ("second", "import of a near-identical second / cp -a", 0.7),
    ]:
        ratio = ratios(found, "foldfs", "cp", field)
        times = f"{spread(column(found, 'foldfs', field))} s / {spread(column(found, 'cp', field))} s"
        report(what, f"{spread(ratio)}; {times}", f"at most {bound}", statistics.median(ratio) <= bound)


# ---- eight trees beside ostree ----


def unique_contents(trees):
    """Bytes of all different contents rounded up to blocks, and of all files so rounded."""
    seen, unique, everything, files = set(), 0, 0, 0
    for tree in trees:
        counted = set()
        for path, status in entries(TREES / tree):
            files += 1
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                continue
            if (status.st_dev, status.st_ino) in counted:
                continue
            counted.add((status.st_dev, status.st_ino))
            rounded = -(-status.st_size // BLOCK) * BLOCK
            everything += rounded
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest() if hasattr(
                    hashlib, "file_digest") else hashlib.sha256(file.read()).digest()
            if digest not in seen:
                seen.add(digest)
                unique += rounded
    return unique, everything, files


def bench_eight(runs):
    say(f"eight trees beside ostree: {', '.join(EIGHT)}")
    unique, everything, paths = unique_contents(EIGHT)
    say(f"  {paths} paths, {everything / MIB:.0f} MiB, unique {unique / MIB:.0f} MiB"
        f" ({100 * unique / everything:.0f} %)")
    # ostree refuses a tree with devices: it is shown these without their /dev.
    hide_devices = 'mount -t tmpfs -o mode=755 none "$1/dev"; shift; exec "$@"'

    def ours():
        store = fresh("store")
        foldfs(store, "init")

        def work():
            for tree in EIGHT:
                foldfs(store, "import", tree, TREES / tree)

        found = {"time": timed(store, work), "stored": allocated(store)}
        said = foldfs_json(store, "status")["stored_bytes"]
        found["said"] = said / found["stored"]
        remove(store)
        return found

    def theirs():
        repository = fresh("ostree")
        run("ostree", "init", f"--repo={repository}", "--mode=bare")

        def work():
            for tree in EIGHT:
                run("unshare", "--mount", "sh", "-ec", hide_devices, "sh", TREES / tree,
                    "ostree", "commit", f"--repo={repository}", f"--branch={tree}",
                    f"--tree=dir={TREES / tree}")

        found = {"time": timed(repository, work), "stored": allocated(repository)}
        remove(repository)
        return found

    found = in_turns(runs, {"foldfs": ours, "ostree": theirs})
    ratio = ratios(found, "foldfs", "ostree", "time")
    times = f"{spread(column(found, 'foldfs', 'time'), 1)} s / {spread(column(found, 'ostree', 'time'), 1)} s"
    report("eight imports / ostree commit", f"{spread(ratio)}; {times}", "at most 0.5",
           statistics.median(ratio) <= 0.5)
    ours_stored = [value / unique for value in column(found, "foldfs", "stored")]
    theirs_stored = [value / unique for value in column(found, "ostree", "stored")]
    report("stored / unique contents in 4 KiB blocks",
           f"{spread(ours_stored, 3)}; ostree, without times and devices, {spread(theirs_stored, 3)}",
           "at most 1.025", statistics.median(ours_stored) <= 1.025)
    report("stored / the trees' own size",
           f"{100 * statistics.median(column(found, 'foldfs', 'stored')) / everything:.1f} %;"
           f" the ideal is {100 * unique / everything:.1f} %", "", None)
    said = column(found, "foldfs", "said")
    report("status 'stored' / du", spread(said, 4), "within 1 %",
           all(abs(value - 1) <= 0.01 for value in said))


# ---- the daemon ----


@contextlib.contextmanager
def mounted(store, *options):
    """All images of a store, mounted by a daemon of our own; yields its process id and directory."""
    directory = fresh("mounts")
    directory.mkdir()
    with open(WORK / "daemon.log", "wb") as log:
        daemon = subprocess.Popen(
            [FOLDFS, *settings(store), "mount", directory, "-f", *options],
            env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        wanted = {image["name"] for image in foldfs_json(store, "list")["images"]
                  if image["role"] == "guest"}
        while not all(os.path.ismount(directory / name) for name in wanted):
            if daemon.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"bench: the mount failed:\n{(WORK / 'daemon.log').read_text()}")
            time.sleep(0.05)
        yield daemon.pid, directory
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(60) != 0:
            sys.exit(f"bench: the daemon ended with {daemon.returncode}")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        for line in Path("/proc/self/mounts").read_text().splitlines():
            target = line.split()[1]
            if target.startswith(f"{directory}/"):
                subprocess.run(["umount", "-l", target], check=False)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    sys.exit("bench: the daemon is gone")


def bench_fold(runs):
    say("fold that finds nothing new: 8 mounted images, 10,000 private files of their own in each")
    store = fresh("store")
    foldfs(store, "init")
    for number in range(8):
        foldfs(store, "import", f"image{number}", TREES / "minbase")
    with mounted(store) as (_, directory):
        for image in range(8):
            for group in range(100):
                below = directory / f"image{image}" / "srv" / f"group{group}"
                below.mkdir()
                for number in range(100):
                    (below / f"file{number}").write_bytes(b"%d %d %d\n" % (image, group, number) * 200)
        run("sync", "-f", store)

        def fold():
            started = time.monotonic()
            foldfs(store, "fold")
            return time.monotonic() - started

        first = fold()
        again = [fold() for _ in range(max(runs, 3))]
        report("fold, nothing changed since the last one", f"{spread(again, 3)} s", "under 0.2 s",
               statistics.median(again) < 0.2)
        report("the scan before it, of 80,000 new files", f"{first:.2f} s", "", None)
    remove(store)


def bench_memory(runs):
    say("memory of the daemon: 10 mounted images")
    store = fresh("store")
    foldfs(store, "init")
    for tree in EIGHT:
        foldfs(store, "import", tree, TREES / tree)
    foldfs(store, "import", "app", TREES / "app")
    foldfs(store, "import", "second", TREES / "standard")
    mounted_sizes, an_inode = [], []
    for _ in range(runs):
        with mounted(store) as (pid, directory):
            time.sleep(1)
            mounted_sizes.append(resident(pid) / MIB)
            # A first look that fills what has a bound: caches, the allocator's pools.
            run("find", directory / "minbase", "-printf", "%i\n")
            before = resident(pid)
            seen = run("find", directory / "standard", "-printf", "%i\n").count("\n")
            an_inode.append((resident(pid) - before) / seen)
    report("the daemon's memory with 10 mounted images", f"{spread(mounted_sizes, 1)} MiB",
           "under 60 MB", statistics.median(mounted_sizes) * MIB < 60e6)
    report(f"and for each inode the kernel holds ({seen})", f"{spread(an_inode, 0)} bytes",
           "at most 300", statistics.median(an_inode) <= 300)
    remove(store)


# ---- the machine and the report ----


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


def main():
    parts = {"import": bench_import, "eight": bench_eight, "fold": bench_fold, "memory": bench_memory}
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=5, help="of each measurement (5)")
    arguments.add_argument("--only", choices=parts, action="append", help="leave the others out")
    arguments = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: root is needed: it imports and mounts root trees")
    remove(WORK)
    WORK.mkdir(parents=True)
    (WORK / "config.toml").touch()
    description = machine()
    say(description)
    for name in arguments.only or parts:
        parts[name](arguments.runs)
    remove(WORK)
    load = f"; load averages at the end {' '.join(f'{value:.1f}' for value in os.getloadavg())}"
    say(load[2:])
    if arguments.runs >= 5 and not arguments.only:
        write_report(arguments.runs, description + load)
        say("written to docs/performance.md")
    else:
        say("tried out: docs/performance.md takes at least five runs of everything")
    missed = [what for what, _, _, holds in rows if holds is False]
    if missed:
        sys.exit(f"bench: {len(missed)} of {len(rows)} bounds missed: {'; '.join(missed)}")


main()
