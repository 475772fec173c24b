"""The daemon's memory, and a fold that somebody asks for beside it."""

import statistics
import time

from .harness import EIGHT, MIB, TREES, foldfs, fresh, mounted, remove, report, resident, run, say, spread


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
