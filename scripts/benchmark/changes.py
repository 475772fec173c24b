"""Changes of a family: telling two images apart, and a patch that many mounted images get at once."""

import json
import os
import statistics
import subprocess
import threading
import time

from .harness import (
    FOLDFS, TREES, amount, column, drop_caches, foldfs, foldfs_json, fresh, in_turns, mounted, remove,
    report, report_speed, run, say, settings, spread, stopwatch,
)
from .imports import ostree_commit

# The patch alters so many files of the system.
ALTERED = 20
IMAGES = 200


def whatever(*words):
    """A command whose exit code says that there are differences."""
    quoted = " ".join(f"'{word}'" for word in words)
    return ["sh", "-c", f"{quoted}; test $? -ne 2"]


def bench_diff(runs):
    say("in what two Debian images differ, by content")
    store = fresh("store")
    foldfs(store, "init")
    trees = {"web": TREES / "minbase", "upgraded": TREES / "upgraded"}
    for name, tree in trees.items():
        foldfs(store, "import", name, tree, "--family", "debian")
    repository = fresh("repository")
    run("ostree", f"--repo={repository}", "init", "--mode=bare")
    for name, tree in trees.items():
        ostree_commit(repository, name, tree)
    commands = {
        "foldfs": whatever(FOLDFS, *settings(store), "diff", "web", "upgraded"),
        "diff -rq": whatever("diff", "-rq", "--no-dereference", *trees.values()),
        "ostree diff": whatever("ostree", f"--repo={repository}", "diff", "web", "upgraded"),
    }
    report("paths that differ", str(differing(store)), "", None)

    def cold(command):
        drop_caches()
        return {"time": stopwatch(*command)}

    for what, limit, measure in [
        ("warm", 0.05, lambda command: {"time": stopwatch(*command)}),
        ("cold", 0.3, cold),
    ]:
        found = in_turns(runs, {name: lambda command=command: measure(command)
                                for name, command in commands.items()})
        times = column(found, "foldfs", "time")
        report(f"diff of two images, {what}", amount(times), f"under {limit} s",
               statistics.median(times) < limit)
        for peer in ["diff -rq", "ostree diff"]:
            report_speed(f"diff of two images, {what}", found, peer, "time")
    remove(store)
    remove(repository)


def differing(store):
    """How many paths."""
    done = subprocess.run([FOLDFS, *settings(store), "--json", "diff", "web", "upgraded"],
                          stdout=subprocess.PIPE, check=False)
    return len(json.loads(done.stdout)["differences"])


def patched(tree, patch):
    """A patch that alters files of /usr, and one of its paths with the new content."""
    new = fresh("new")
    run("cp", "-a", tree, new)
    names = run("find", "usr/lib", "usr/share", "-type", "f", "-links", "1", "-size", "-64", cwd=new)
    names = sorted(names.splitlines())
    chosen = names[::len(names) // ALTERED][:ALTERED]
    for name in chosen:
        with open(new / name, "ab") as file:
            file.write(b"patched\n")
    run(FOLDFS, "patch", "create", f"{tree}/", f"{new}/", "-o", patch)
    remove(new)
    return chosen[-1]


class Watch(threading.Thread):
    """When each image shows the new version of a path; looked at in turns, as often as it goes."""

    def __init__(self, places):
        super().__init__()
        self.waiting = dict(places)
        self.sizes = {name: os.stat(path).st_size for name, path in places.items()}
        self.seen = {}
        self.ended = threading.Event()

    def run(self):
        while self.waiting and not self.ended.is_set():
            for name, path in list(self.waiting.items()):
                if os.stat(path).st_size != self.sizes[name]:
                    self.seen[name] = time.monotonic()
                    del self.waiting[name]


def applied(store, images, patch, path, directory):
    """Applies the patch and takes it back; how long that took, and when who saw it."""
    watch = Watch({name: directory / name / path for name in images})
    watch.start()
    began = time.monotonic()
    foldfs(store, "patch", "apply", patch, "--family", "debian")
    ended = time.monotonic()
    watch.join(10)
    watch.ended.set()
    if watch.waiting:
        raise SystemExit(f"bench: {len(watch.waiting)} images do not show the patch")
    change = max(one["change"] for one in foldfs_json(store, "log", "debian")["changes"])
    reverting = time.monotonic()
    foldfs(store, "revert", change)
    return {
        "apply": ended - began,
        "revert": time.monotonic() - reverting,
        "last": max(watch.seen.values()) - min(watch.seen.values()),
        "after": max(0.0, max(watch.seen.values()) - ended),
    }


def bench_changes(runs):
    tree = TREES / "minbase"
    patch = fresh("change.patch")
    path = patched(tree, patch)
    say(f"a patch of {ALTERED} files for a family, all of whose images are mounted")
    found = {}
    for count in [1, IMAGES]:
        store = fresh("store")
        foldfs(store, "init")
        foldfs(store, "import", "image0", tree, "--family", "debian")
        images = [f"image{number}" for number in range(count)]
        for name in images[1:]:
            foldfs(store, "clone", "image0", name)
        with mounted(store) as (_, directory):
            found[count] = [applied(store, images, patch, path, directory) for _ in range(runs)]
        remove(store)
    for count, measured in found.items():
        times = {key: [one[key] for one in measured] for key in measured[0]}
        report(f"patch apply, {count} mounted images", amount(times["apply"]), "", None)
        report(f"revert of it, {count} mounted images", amount(times["revert"]), "", None)
        shown = [last * 1000 for last in times["last"]]
        report(f"from the first image that shows it to the last, {count} mounted", f"{spread(shown, 1)} ms",
               "under 100 ms", statistics.median(shown) < 100)
        late = [after * 1000 for after in times["after"]]
        report(f"still not shown when the command ends, {count} mounted", f"for {spread(late, 1)} ms", "", None)
    one, many = ([run["apply"] for run in found[count]] for count in [1, IMAGES])
    each = [(after - before) * 1000 / (IMAGES - 1) for before, after in zip(one, many)]
    report("patch apply, for each image more", f"{spread(each, 2)} ms", "at most 1 ms",
           statistics.median(each) <= 1)
    os.unlink(patch)
