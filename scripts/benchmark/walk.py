"""Looking around: walks, listings, and reading every file."""

from .harness import (
    TREES, drop_caches, entries, foldfs, fresh, in_turns, mounted, remove, report_speed, run, say, stopwatch,
)
from .peers import Peer, peers

# Of one Debian system with a kernel: four of them are 100,000 entries. The contents of one will do.
SYSTEMS = 4

WALK = ["find", ".", "-printf", "%s %T@\n"]
# For each entry it asks for an xattr and an ACL, too.
LIST = ["ls", "-lR", "."]
READ = ["sh", "-c", "find system0 -type f -print0 | xargs -0 cat"]


def many_entries():
    """A tree of 100,000 entries."""
    tree = fresh("many")
    tree.mkdir()
    for number in range(SYSTEMS):
        without = ["--attributes-only"] if number else []
        run("cp", "-a", *without, TREES / "standard", tree / f"system{number}")
    return tree


def store_of(tree, name="image"):
    store = fresh("store")
    foldfs(store, "init")
    foldfs(store, "import", name, tree)
    return store


def bench_walk(runs):
    tree = many_entries()
    count = sum(1 for _ in entries(tree))
    say(f"looking around in an image of {count} entries")
    store = store_of(tree)
    with mounted(store) as (_, directory), peers(tree, ["overlayfs", "fuse-overlayfs"]) as others:
        warm = {"foldfs": directory / "image", **others}
        for what, command, least in [
            (f"walk of {count} entries with stat, warm", WALK, 1.0),
            ("ls -lR with xattrs and ACLs, warm", LIST, 0.35),
            ("reading every file of a system, warm", READ, 0.7),
        ]:
            for place in warm.values():
                stopwatch(*command, cwd=place)
            sides = {name: lambda place=place: {"time": stopwatch(*command, cwd=place)}
                     for name, place in warm.items()}
            found = in_turns(runs, sides)
            report_speed(what, found, "overlayfs", "time", least)
            report_speed(what, found, "fuse-overlayfs", "time")

    def cold(place, command):
        drop_caches()
        return {"time": stopwatch(*command, cwd=place)}

    def ours(command):
        with mounted(store) as (_, directory):
            return cold(directory / "image", command)

    def theirs(command):
        peer = Peer("overlayfs", tree)
        try:
            peer.mount()
            return cold(peer.path, command)
        finally:
            peer.remove()

    for what, command, least in [
        (f"walk of {count} entries with stat, cold", WALK, 1.3),
        ("ls -lR with xattrs and ACLs, cold", LIST, None),
        ("reading every file of a system, cold", READ, 1.0),
    ]:
        sides = {"foldfs": lambda: ours(command), "overlayfs": lambda: theirs(command)}
        report_speed(what, in_turns(runs, sides), "overlayfs", "time", least)
    remove(store)
    remove(tree)
