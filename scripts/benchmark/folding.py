"""Folding by itself: the first pass, those after it, what they cost guests, and their memory."""

import json
import os
import random
import stat
import statistics
import subprocess
import threading
import time

from .client import Client, p99
from .harness import (
    BLOCK, EIGHT, MIB, TREES, WORK, allocated, column, drop_caches, entries, foldfs, foldfs_json, fresh,
    in_turns, mounted, ratios, remove, report, resident, run, say, spread,
)
from .imports import unique_contents

# A private inode that has no content of its own takes one of these on ext4, a private directory a
# block more.
INODE = 256

# The daemon's passes come back to back, and leave nothing alone for having been altered just now.
AT_ONCE = "interval = '1s'\nquiet = '0s'\n"
NEVER = "interval = 'never'\n"


def configure(text):
    (WORK / "config.toml").write_text(text)


def folding(store):
    return foldfs_json(store, "status")["folding"]


def wait_for(store, condition, patience=600):
    """What status tells of the passes, once it fulfils a condition."""
    deadline = time.monotonic() + patience
    while not condition(found := folding(store)):
        if found["last_error"] or time.monotonic() > deadline:
            raise SystemExit(f"bench: the passes: {json.dumps(found)}")
        time.sleep(0.1)
    return found


def settled(store):
    """Waits until a pass has found nothing new twice."""
    idle = folding(store)["passes_with_nothing_new"]
    return wait_for(store, lambda found: found["passes_with_nothing_new"] >= idle + 2)


def store_of_copies(name):
    """A store whose images got the eight trees by `cp -a` through their mounts: all is private."""
    configure(NEVER)
    empty = fresh("empty")
    empty.mkdir()
    store = fresh(name)
    foldfs(store, "init")
    for tree in EIGHT:
        foldfs(store, "import", tree, empty, "--family", "copies")
    with mounted(store) as (_, directory):
        for tree in EIGHT:
            run("cp", "-a", f"{TREES / tree}/.", directory / tree)
    remove(empty)
    return store


def ideal(store, unique):
    """What whole-file deduplication could reach at best, and what the layers need beside it."""
    stubs = directories = 0
    for path, status in entries(store / "images"):
        if stat.S_ISDIR(status.st_mode):
            directories += 1
        elif not (stat.S_ISREG(status.st_mode) and status.st_blocks):
            stubs += 1
    return unique + stubs * INODE + directories * (INODE + BLOCK)


def stored(store):
    """Allocated blocks as du(1) counts, and the inodes, which it does not."""
    return allocated(store) + sum(INODE for _ in entries(store))


def bench_first_pass(runs):
    say("the first fold of eight trees that were copied into images, cold, beside jdupes and rdfind")
    unique, everything, _ = unique_contents(EIGHT)
    master = store_of_copies("master")
    copies = fresh("copies")
    copies.mkdir()
    for tree in EIGHT:
        run("cp", "-a", TREES / tree, copies / tree)

    # What is removed here goes at the end: ext4 passes over the inode numbers of the last minutes, one by
    # one, whenever it makes a file, so one run would slow the next.
    done = fresh("done")
    done.mkdir()

    def put_away(path):
        path.rename(done / str(len(os.listdir(done))))

    def cold(work, place=None):
        drop_caches()
        started = time.monotonic()
        work()
        found = {"time": time.monotonic() - started}
        if place:
            run("sync", "-f", place)
            found["synced"] = time.monotonic() - started
        return found

    def ours():
        store = fresh("store")
        run("cp", "-a", "--sparse=always", master, store)
        found = cold(lambda: foldfs(store, "fold"), store)
        found["blocks"] = allocated(store)
        found["stored"] = stored(store) / ideal(store, unique)
        foldfs(store, "check")
        put_away(store)
        return found

    def linking(*command):
        linked = fresh("linked")
        run("cp", "-a", copies, linked)
        found = cold(lambda: run(*command, linked), linked)
        found["blocks"] = allocated(linked)
        put_away(linked)
        return found

    # They only look: the files stay as they are, and ours are kept once by then. Those that link them keep
    # them once, too: jdupes what has the same owner and mode, rdfind all that has the same content.
    looking = {
        "jdupes": lambda: cold(lambda: run("jdupes", "-r", "-q", "-m", copies)),
        "rdfind": lambda: cold(lambda: run("rdfind", "-dryrun", "true", "-makeresultsfile", "false",
                                           copies)),
    }
    links = {
        "jdupes -p -L": lambda: linking("jdupes", "-r", "-q", "-p", "-L"),
        "rdfind -makehardlinks": lambda: linking("rdfind", "-makehardlinks", "true",
                                                 "-makeresultsfile", "false"),
    }
    found = in_turns(runs, {"foldfs": ours, **looking, **links})
    for other in looking:
        ratio = ratios(found, "foldfs", other, "time")
        times = f"{spread(column(found, 'foldfs', 'time'))} s / {spread(column(found, other, 'time'))} s"
        report(f"first fold of eight private trees, cold / {other}, which only looks",
               f"{spread(ratio)}; {times}", "below 1", statistics.median(ratio) < 1)
    for other in links:
        ratio = ratios(found, "foldfs", other, "synced")
        times = (f"{spread(column(found, 'foldfs', 'synced'))} s /"
                 f" {spread(column(found, other, 'synced'))} s")
        report(f"first fold of eight private trees and sync, cold / {other} and sync, which links",
               f"{spread(ratio)}; {times}", "", None)
    for path in [master, copies, done]:
        remove(path)
    jdupes, rdfind = [statistics.median(column(found, other, "blocks")) for other in links]
    blocks = statistics.median(column(found, "foldfs", "blocks"))
    report("blocks stored after it / after jdupes -p -L", f"{blocks / jdupes:.3f}", "below 1",
           blocks < jdupes)
    report("blocks stored after it / after rdfind, which mixes owners and modes up",
           f"{blocks / rdfind:.3f}; of the trees' {everything / MIB:.0f} MiB {blocks / MIB:.0f} MiB",
           "", None)
    excess = column(found, "foldfs", "stored")
    report("stored / the ideal of whole-file deduplication and private entries", spread(excess, 4),
           "at most 1.01", statistics.median(excess) <= 1.01)


def bench_pass(runs):
    say("passes of a daemon over eight images of minbase, 1,250 files of its own in each")
    configure(AT_ONCE)
    store = fresh("store")
    foldfs(store, "init")
    for number in range(8):
        foldfs(store, "import", f"image{number}", TREES / "minbase")
    with mounted(store) as (_, directory):
        for image in range(8):
            below = directory / f"image{image}" / "srv"
            for number in range(1250):
                (below / f"file{number}").write_bytes(b"%d %d\n" % (image, number) * 200)
        settled(store)
        idle = []
        for _ in range(max(runs, 5)):
            settled(store)
            idle.append(folding(store)["nothing_new_microseconds"] / 1000)
        report("a pass with nothing altered, 8 images", f"{spread(idle)} ms", "under 50 ms",
               statistics.median(idle) < 50)
        # One in a hundred of all files of an image, shared ones among them.
        image = directory / "image3"
        files = [path for path, status in entries(image)
                 if stat.S_ISREG(status.st_mode) and status.st_size]
        chosen = random.Random(1).sample(sorted(os.fsencode(path) for path in files), len(files) // 100)
        passes, hashed = [], []
        for number in range(max(runs, 5)):
            before = folding(store)["last"]["started"]
            for path in chosen:
                with open(path, "r+b") as file:
                    file.write(b"%d" % number)
            # An older pass may have met some of them: the one that met all counts.
            found = settled(store)["last"]
            if found["started"] == before or found["examined"] < len(chosen):
                continue
            passes.append(found["milliseconds"])
            started = time.monotonic()
            subprocess.run(["sha256sum", *chosen], stdout=subprocess.DEVNULL, check=True)
            hashed.append((time.monotonic() - started) * 1000)
        ratio = [a / b for a, b in zip(passes, hashed)]
        report(f"a pass after {len(chosen)} files (1 %) of one image were altered / sha256sum of them",
               f"{spread(ratio)}; {spread(passes, 0)} ms / {spread(hashed, 0)} ms", "at most 2",
               statistics.median(ratio) <= 2)
    with mounted(store) as (_, directory):
        found = wait_for(store, lambda found: found["passes"] > 0)
        report("the scan after a daemon's start, of these images", f"{found['last']['milliseconds']} ms",
               "", None)
    configure(NEVER)
    remove(store)
    many = fresh("store")
    foldfs(many, "init")
    foldfs(many, "import", "image", TREES / "minbase")
    for number in range(200):
        foldfs(many, "clone", "image", f"clone{number}")
    configure(AT_ONCE)
    with mounted(many):
        idle = []
        for _ in range(max(runs, 5)):
            settled(many)
            idle.append(folding(many)["nothing_new_microseconds"] / 1000)
        report("a pass with nothing altered, 201 mounted images", f"{spread(idle)} ms", "under 50 ms",
               statistics.median(idle) < 50)
    configure(NEVER)
    remove(many)


def passes_made(store):
    """How many passes that had something to do the store's log knows. To ask the daemon would cost it, and
    the guests, more than the pass does."""
    log = store / "run/folds.log"
    return log.read_text().count('"by":"pass"') if log.exists() else 0


def watched(client, is_over):
    """Runs the client until a condition holds; when it did."""
    over = threading.Event()
    seen = []

    def watch():
        while not is_over():
            time.sleep(0.02)
        seen.append(time.monotonic())
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    found = client.measure(over.is_set)
    watcher.join()
    return found, seen[0]


def bench_latency(runs):
    say("what a pass costs guests at work: p99 of opens, reads and writes in a mounted image")
    configure(NEVER)
    store = fresh("store")
    foldfs(store, "init")
    for name in ["one", "two", "guest"]:
        foldfs(store, "import", name, TREES / "minbase", "--family", "latency")
    found = {"with": [], "without": []}
    passes = []
    for number in range(max(runs, 5)):
        configure("interval = '1h'\nquiet = '1h'\n")
        with mounted(store) as (_, directory):
            # Equal content for the pass to find: 400 MB of it.
            for image in ["one", "two"]:
                for file in range(200):
                    data = random.Random(number * 1000 + file).randbytes(MIB)
                    (directory / image / "srv" / f"equal{file}").write_bytes(data)
            client = Client(directory / "guest" / "srv")
            run("sync", "-f", store)
            end = time.monotonic() + 3
            times, _ = watched(client, lambda: time.monotonic() > end)
            found["without"].append(p99(times, 0, end))
        # Another daemon makes its first pass, two seconds after its start, while the client works.
        configure("interval = '2s'\nquiet = '2s'\n")
        with mounted(store) as (_, directory):
            client = Client(directory / "guest" / "srv")
            made = passes_made(store)
            times, end = watched(client, lambda: passes_made(store) > made)
            passes.append(folding(store)["last"])
            took = passes[-1]["milliseconds"] / 1000
            found["with"].append(p99(times, end - took, end - 0.05))
    say(f"  passes: {[(one['milliseconds'], one['folded_files']) for one in passes]}")
    for kind in ["open", "read", "write"]:
        ratio = [a[kind] / b[kind] for a, b in zip(found["with"], found["without"])]
        times = (f"{spread([one[kind] for one in found['with']], 0)} us /"
                 f" {spread([one[kind] for one in found['without']], 0)} us")
        report(f"p99 of {kind} during a pass that folds 400 MB / without", f"{spread(ratio)}; {times}", "at most 1.5",
               statistics.median(ratio) <= 1.5)
    configure(NEVER)
    remove(store)


def bench_million(_runs):
    say("memory of a daemon whose passes look at a million private files")
    configure(NEVER)
    empty = fresh("empty")
    empty.mkdir()
    store = fresh("store")
    foldfs(store, "init")
    for number in range(4):
        foldfs(store, "import", f"image{number}", empty, "--family", "many")
    remove(empty)
    with mounted(store) as (_, directory):
        for image in range(4):
            for group in range(250):
                below = directory / f"image{image}" / f"group{group}"
                below.mkdir()
                for number in range(1000):
                    # A third of them is equal to another one.
                    content = number if number % 3 == 0 else image * 10**6 + group * 1000 + number
                    file = os.open(below / f"file{number}", os.O_WRONLY | os.O_CREAT)
                    os.write(file, b"%09d\n" % content)
                    os.close(file)
    configure(AT_ONCE)
    with mounted(store) as (pid, _):
        peak = []
        while folding(store)["last"] is None:
            peak.append(resident(pid))
            time.sleep(0.2)
        found = folding(store)["last"]
        most = max(*peak, resident(pid))
        report(f"memory of a daemon whose pass looks at {found['examined']} private files",
               f"at most {most / MIB:.0f} MiB; the pass took {found['milliseconds'] / 1000:.0f} s",
               "under 150 MB", most < 150e6)
    configure(NEVER)
    remove(store)
