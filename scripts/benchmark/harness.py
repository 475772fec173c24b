"""What the benchmarks have in common: programs in turns, spreads, stores and mounts of their own."""

import contextlib
import json
import os
import signal
import stat
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
TREES = Path(os.environ.get("FOLDFS_TREES", ROOT / "target/trees"))
WORK = ROOT / "target/bench"
FOLDFS = BUILT / "foldfs"
LATENCY = BUILT / "examples/latency"
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


def run(*command, quiet=True, **options):
    done = subprocess.run(
        [str(word) for word in command],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        **options,
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


def latency(*words):
    """What examples/latency.rs measured."""
    return json.loads(run(LATENCY, *words))


def stopwatch(*command, **options):
    """Seconds that a command takes; its output is thrown away."""
    started = time.monotonic()
    done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    took = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")
    return took


def drop_caches():
    run("sync")
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


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


def amount(seconds):
    """Durations in the unit that suits them."""
    middle = statistics.median(seconds)
    for unit, factor, digits in [("s", 1, 2), ("ms", 1e3, 1), ("us", 1e6, 2)]:
        if middle * factor >= 1:
            break
    return f"{spread([value * factor for value in seconds], digits)} {unit}"


def report_speed(what, found, peer, field, least=None, ours="foldfs"):
    """How fast foldfs is relative to a peer: 2 is twice as fast, 1 as fast."""
    ratio = ratios(found, peer, ours, field)
    times = f"{amount(column(found, ours, field))} / {amount(column(found, peer, field))}"
    bound = "" if least is None else f"at least {least}"
    holds = None if least is None else statistics.median(ratio) >= least
    report(f"{what}: speed relative to {peer}", f"{spread(ratio)}; {times}", bound, holds)


def report_latency(what, found, operation, step):
    """How long one of many takes, on each side."""
    def middle(side, percentile):
        said = [sample[f"{operation} in detail"][step] for sample in found[side]]
        return f"{statistics.median(one[percentile] for one in said) / 1000:.2f}"

    times = "; ".join(f"{side} {middle(side, 'p10')} and {middle(side, 'p50')}" for side in found)
    report(f"{what}, p10 and p50 in us", times, "", None)


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
