"""Making and removing names: an archive unpacked, many files made and removed, a tree removed."""

from .harness import (
    TREES, WORK, fresh, in_turns, latency, mounted, remove, report_latency, report_speed, run, say, stopwatch,
)
from .peers import peers
from .walk import store_of

FILES = 10_000
UNPACKED = 5_000


def archive_of(count):
    """An archive of some thousand files of a real system, with the directories above them."""
    path = WORK / "archive.tar"
    names = run("find", "usr/lib", "usr/share", "-type", "f", cwd=TREES / "standard").splitlines()
    step = len(names) // count
    (WORK / "names").write_text("\n".join(sorted(names)[::step][:count]))
    run("tar", "-C", TREES / "standard", "-cf", path, "-T", WORK / "names")
    return path


def trees_to_remove(runs):
    """A tree for each run, of as many files in a hundred directories."""
    tree = fresh("names-tree")
    for number in range(runs):
        for group in range(100):
            below = tree / f"remove{number}" / f"group{group}"
            below.mkdir(parents=True)
            for file in range(FILES // 100):
                (below / f"file{file}").write_bytes(b"%d\n" % file)
    return tree


def bench_names(runs):
    say(f"names: an archive of {UNPACKED} files, {FILES} files made and removed, a tree of {FILES} removed")
    archive = archive_of(UNPACKED)
    tree = trees_to_remove(runs)
    store = store_of(tree)
    plain = fresh("plain")
    run("cp", "-a", tree, plain)
    programs = ["overlayfs", "fuse-overlayfs", "unionfs-fuse"]
    with mounted(store, "-o", "dev,suid") as (_, directory), peers(tree, programs) as others:
        places = {"foldfs": directory / "image", **others, "ext4": plain}

        def side(place):
            turns = iter(range(runs))

            def work():
                unpacked = place / "unpacked"
                unpacked.mkdir()
                found = {"untar": stopwatch("tar", "-C", unpacked, "-xf", archive)}
                run("rm", "-rf", unpacked)
                made = place / "made"
                made.mkdir()
                found["create in detail"] = latency("create", made, "--count", FILES)
                found["create"] = found["create in detail"]["seconds"]
                made.rmdir()
                found["remove"] = stopwatch("rm", "-rf", place / f"remove{next(turns)}")
                return found

            return work

        found = in_turns(runs, {name: side(place) for name, place in places.items()})
    for operation, what, least in [
        ("untar", f"untar of {UNPACKED} files", 2),
        ("create", f"create, stat and unlink of {FILES} files", 1.4),
        ("remove", f"rm -rf of {FILES} files of the layer below", 10),
    ]:
        report_speed(what, found, "fuse-overlayfs", operation, least)
        for peer in ["overlayfs", "unionfs-fuse", "ext4"]:
            report_speed(what, found, peer, operation)
    for step in ["create", "stat", "unlink"]:
        report_latency(f"{step} of a file", found, "create", step)
    for path in [store, plain, tree]:
        remove(path)
    archive.unlink()
