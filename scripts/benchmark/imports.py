"""Imports, beside cp -a and ostree."""

import hashlib
import os
import stat
import statistics

from .harness import (
    BLOCK, EIGHT, MIB, TREES, allocated, column, entries, foldfs, foldfs_json, fresh, in_turns, ratios, remove, report, run, say, spread, timed, warm,
)


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


def ostree_commit(repository, branch, tree):
    """Commits a tree. ostree refuses one with devices: it is shown it without its /dev."""
    hide_devices = 'mount -t tmpfs -o mode=755 none "$1/dev"; shift; exec "$@"'
    run("unshare", "--mount", "sh", "-ec", hide_devices, "sh", tree,
        "ostree", "commit", f"--repo={repository}", f"--branch={branch}", f"--tree=dir={tree}")


def bench_eight(runs):
    say(f"eight trees beside ostree: {', '.join(EIGHT)}")
    unique, everything, paths = unique_contents(EIGHT)
    say(f"  {paths} paths, {everything / MIB:.0f} MiB, unique {unique / MIB:.0f} MiB"
        f" ({100 * unique / everything:.0f} %)")
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
                ostree_commit(repository, tree, TREES / tree)

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
