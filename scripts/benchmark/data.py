"""Contents: large files, blocks and mappings, first writes, and how often the host keeps a page."""

import statistics
import time
from pathlib import Path

from .client import Client, p99
from .harness import (
    MIB, amount, column, drop_caches, foldfs, fresh, in_turns, latency, mounted, remove, report,
    report_latency, report_speed, run, say, spread, stopwatch,
)
from .peers import loop_device, peers

SIZE = 1 << 30
READS, WRITES, OPENS = 200_000, 100_000, 20_000


def large_file(path):
    with open("/dev/urandom", "rb") as source, open(path, "wb") as file:
        for _ in range(SIZE // MIB):
            file.write(source.read(MIB))


def store_with(file, store, images):
    """A store whose images share one file."""
    foldfs(store, "init")
    foldfs(store, "import", images[0], file.parent, "--family", "large")
    for image in images[1:]:
        foldfs(store, "clone", images[0], image)
    return store


def settled(directory, work):
    """Does it when nothing waits to be written."""
    run("sync", "-f", directory)
    return work()


def bench_data(runs):
    say("contents: a shared and a private file of 1 GiB, warm (read once after the caches were dropped)")
    tree = fresh("large")
    tree.mkdir()
    large_file(tree / "shared")
    store = store_with(tree / "shared", fresh("store"), ["image"])
    # What is written to beside the tree, which overlayfs has below it.
    plain = fresh("plain")
    plain.mkdir()
    with mounted(store) as (_, directory), peers(tree, ["overlayfs", "fuse-overlayfs"]) as others:
        places = {"foldfs": directory / "image", "ext4": tree, **others}
        written = {"foldfs": directory / "image", "ext4": plain}
        for place in written.values():
            run("cp", tree / "shared", place / "private")
        # What was just written lies in the cache in other pages than what is read ahead (large folios),
        # which makes mappings and blocks of one of two equal files several times as fast.
        drop_caches()
        for place in places.values():
            latency("read", place / "shared", "--block", 128 << 10)

        def reads(place):
            shared = place / "shared"
            return {
                "sequential read": latency("read", shared, "--block", 128 << 10),
                "random read": latency("read", shared, "--block", 4096, "--random", "--count", READS),
                "mapped read": latency("map", shared),
                "open": latency("open", shared, "--count", OPENS),
            }

        def writes(place):
            private = place / "private"
            return {
                what: settled(place, lambda: latency(*command))
                for what, command in {
                    "sequential write": ["write", private, "--block", 128 << 10],
                    "random write": ["write", private, "--block", 4096, "--random", "--count", WRITES],
                    "mapped write": ["map", private, "--write"],
                }.items()
            }

        sides = {name: lambda place=place: reads(place) for name, place in places.items()}
        found = flat(in_turns(runs, sides))
        for what, row in [("sequential read", "1 GiB sequential read of a shared file"),
                          ("random read", "4 KiB random read of a shared file"),
                          ("mapped read", "mapped read of a shared file")]:
            report_speed(row, found, "ext4", what, 0.97)
        report_latency("4 KiB random read of a shared file", found, "random read", "block")
        report_speed("open and close of a known file", found, "overlayfs", "open", 0.25)
        report_speed("open and close of a known file", found, "overlayfs", "open", ours="fuse-overlayfs")
        report_latency("open and close of a known file", found, "open", "open")

        sides = {name: lambda place=place: writes(place) for name, place in written.items()}
        found = flat(in_turns(runs, sides))
        for what, row in [("sequential write", "1 GiB sequential write to a private file"),
                          ("random write", "4 KiB random write to a private file"),
                          ("mapped write", "mapped write to a private file")]:
            report_speed(row, found, "ext4", what, 0.95)
        report_latency("4 KiB random write to a private file", found, "random write", "block")
    remove(store)
    remove(plain)
    bench_page_cache(tree / "shared")
    for kind in ["xfs", "ext4"]:
        bench_first_write(kind, tree / "shared", runs)
    remove(tree)


def flat(found):
    """Of what the client says, the seconds under the name of the operation, and the rest below it."""
    def of(sample):
        return {key: value for what, said in sample.items()
                for key, value in [(what, said["seconds"]), (f"{what} in detail", said)]}
    return {side: [of(sample) for sample in samples] for side, samples in found.items()}


def bench_page_cache(file):
    images = ["one", "two", "three"]
    store = store_with(file, fresh("store"), images)
    objects = [path for path in (store / "objects").rglob("*") if path.is_file()]
    [content] = [path for path in objects if path.stat().st_size == SIZE]

    def cached():
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines()
                    if line.startswith("Cached:"))
        return int(line.split()[1]) * 1024

    with mounted(store) as (_, directory):
        drop_caches()
        before = cached()
        for image in images:
            latency("read", directory / image / file.name, "--block", 128 << 10)
        grown = (cached() - before) / SIZE
        kept = latency("resident", content)["bytes"] / SIZE
    report("page cache after three images read one file of 1 GiB / the file",
           f"the object {kept:.2f}, all of the host {grown:.2f}", "1.0", kept == 1 and grown < 1.1)
    remove(store)


def bench_first_write(kind, file, runs):
    """On a file system of its own, as the one below may be any."""
    say(f"the first write to a shared file of 1 GiB, on {kind}")
    with loop_device(kind, 6 * SIZE) as place:
        images = [f"image{number}" for number in range(runs)]
        store = store_with(file, place / "store", images)
        run("cp", file, place / "origin")
        run("sync", "-f", place)
        others = []
        with mounted(store) as (_, directory):
            turns = iter(images)

            def ours():
                image = directory / next(turns)
                latency("read", image / file.name, "--block", 128 << 10)
                client = Client(image / "known")
                run("sync", "-f", place)
                begun = time.monotonic()
                with client.at_work() as found:
                    time.sleep(0.2)
                    first = latency("first-write", image / file.name)["seconds"]
                others.append(p99(found, begun, time.monotonic()))
                (image / file.name).unlink()
                return {"time": first}

            def theirs():
                run("sync", "-f", place)
                took = stopwatch("sh", "-ec", 'cp --reflink=never "$1" "$2"; sync "$2"', "sh",
                                 place / "origin", place / "copy")
                (place / "copy").unlink()
                return {"time": took}

            found = in_turns(runs, {"foldfs": ours, "cp": theirs})
        seconds = column(found, "foldfs", "time")
        if kind == "xfs":
            report("first write to a shared file of 1 GiB, xfs", amount(seconds), "under 10 ms",
                   statistics.median(seconds) < 0.01)
        else:
            ratio = [a / b for a, b in zip(seconds, column(found, "cp", "time"))]
            report(f"first write to a shared file of 1 GiB, {kind} / cp and sync of it",
                   f"{spread(ratio)}; {amount(seconds)} / {amount(column(found, 'cp', 'time'))}",
                   "at most 1.1", statistics.median(ratio) <= 1.1)
        for operation in ["open", "read", "write"]:
            times = [one[operation] / 1000 for one in others]
            report(f"p99 of another file's {operation} in that image meanwhile, {kind}",
                   f"{spread(times)} ms", "under 20 ms", statistics.median(times) < 20)
