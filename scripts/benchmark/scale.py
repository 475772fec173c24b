"""Many entries, many images: how long mounting takes, and what a mounted image holds in memory."""

import os
import statistics
import subprocess
import time
from pathlib import Path

from .harness import (
    FOLDFS, MIB, TREES, WORK, ENVIRONMENT, amount, entries, foldfs, fresh, latency, mounted, remove, report,
    resident, say, settings,
)
from .walk import many_entries, store_of

IMAGES, WRITTEN_TO = 1000, 10


def bench_scale(runs):
    bench_mount(runs)
    bench_thousand()


def bench_mount(runs):
    tree = many_entries()
    count = sum(1 for _ in entries(tree))
    say(f"mounting an image of {count} entries, and {IMAGES} images")
    store = store_of(tree)
    remove(tree)
    place = WORK / "one"
    place.mkdir(exist_ok=True)
    beside, alone = [], []
    for _ in range(max(runs, 5)):
        alone.append(command(store, "mount", "image", place))
        foldfs(store, "unmount", place)
        wait_for_daemon(store)
    foldfs(store, "clone", "image", "beside")
    other = WORK / "other"
    other.mkdir(exist_ok=True)
    foldfs(store, "mount", "beside", other)
    for _ in range(max(runs, 5)):
        beside.append(command(store, "mount", "image", place))
        foldfs(store, "unmount", place)
    foldfs(store, "unmount", other)
    wait_for_daemon(store)
    report(f"mounting an image of {count} entries", amount(beside), "under 50 ms",
           statistics.median(beside) < 0.05)
    report("the same, with the start of the daemon", amount(alone), "", None)
    for path in [place, other]:
        path.rmdir()
    remove(store)


def command(store, *words):
    started = time.monotonic()
    foldfs(store, *words)
    return time.monotonic() - started


def daemon_of(store):
    """The process that serves a store in the background."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if words[0].endswith(b"foldfs") and os.fsencode(store) in words:
            return int(path.parent.name)
    raise SystemExit("bench: there is no daemon")


def wait_for_daemon(store):
    """Until it has ended, which it does after its last mount."""
    while subprocess.run([FOLDFS, *settings(store), "metrics"], env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL).returncode == 0:
        time.sleep(0.05)


def bench_thousand():
    store = fresh("store")
    foldfs(store, "init")
    foldfs(store, "import", "image", TREES / "minbase")
    with mounted(store) as (pid, _):
        one = resident(pid)
    for number in range(1, IMAGES):
        foldfs(store, "clone", "image", f"image{number}")
    directory = fresh("mounts")
    directory.mkdir()
    began = command(store, "mount", directory)
    try:
        pid = daemon_of(store)
        idle = (resident(pid) - one) / (IMAGES - 1)
        report(f"mounting {IMAGES} images of one family", f"{began:.2f} s", "under 5 s", began < 5)
        report("the daemon's memory for each of them, idle", f"{idle / 1024:.0f} KB", "at most 100 KB",
               idle <= 100 * 1024)
        before = resident(pid)
        for number in range(1, WRITTEN_TO + 1):
            file = directory / f"image{number}" / "srv/large"
            with open(file, "wb") as out:
                out.truncate(1024 * MIB)
            latency("write", file, "--block", MIB)
            file.unlink()
        grown = (resident(pid) - before) / WRITTEN_TO
        report(f"and after 1 GiB was written through each of {WRITTEN_TO} of them", f"{grown / 1024:.0f} KB more"
               " for each", "", None)
    finally:
        foldfs(store, "unmount", directory)
        wait_for_daemon(store)
    remove(store)
