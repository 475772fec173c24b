"""Booting a virtual machine from an image, and from a plain directory, both through virtiofsd."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .harness import (
    ENVIRONMENT, ROOT, TREES, amount, column, foldfs_json, fresh, in_turns, mounted, ratios, remove, report, run,
    say, spread, stopwatch,
)
from .walk import store_of

# Powers off as soon as all is started that a login needs.
UNIT = """[Unit]
After=multi-user.target getty.target
Wants=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/systemctl poweroff
"""
APPEND = "quiet systemd.unit=reached.service"


def boot(commands, image, root):
    """Seconds from QEMU's start to its end, with another root directory than the image."""
    server, guest = ([word.replace(str(image), str(root)) for word in words] for words in commands)
    socket = Path(next(word for word in server if word.startswith("--socket-path=")).partition("=")[2])
    socket.unlink(missing_ok=True)
    with subprocess.Popen(server, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 30
        while not socket.exists():
            if running.poll() is not None or time.monotonic() > deadline:
                sys.exit("bench: virtiofsd does not listen")
            time.sleep(0.01)
        return {"time": stopwatch(*guest, stdin=subprocess.DEVNULL)}


def bench_boot(runs):
    say("booting Debian with systemd, until it has powered off")
    ENVIRONMENT["PATH"] = f"{ROOT / 'target/release'}:{ROOT / 'target/tools/bin'}:{os.environ['PATH']}"
    tree = fresh("guest")
    run("cp", "-a", TREES / "guest", tree)
    (tree / "etc/systemd/system/reached.service").write_text(UNIT)
    store = store_of(tree)
    with mounted(store, "-o", "suid,dev,allow_other") as (_, directory):
        image = directory / "image"
        commands = foldfs_json(store, "boot", "image", "--print", "--append", APPEND)["commands"]
        # A directory, and the kernel in it; then virtiofsd and QEMU.
        prepare, servers = commands[:-2], commands[-2:]
        for command in prepare:
            run(*command)
        sides = {"foldfs": lambda: boot(servers, image, image),
                 "plain": lambda: boot(servers, image, tree)}
        for side in sides.values():
            side()
        found = in_turns(runs, sides)
        remove(Path(prepare[0][-1]))
    ratio = ratios(found, "foldfs", "plain", "time")
    times = f"{amount(column(found, 'foldfs', 'time'))} / {amount(column(found, 'plain', 'time'))}"
    report("time of a boot relative to a plain directory", f"{spread(ratio)}; {times}", "at most 1.1",
           statistics.median(ratio) <= 1.1)
