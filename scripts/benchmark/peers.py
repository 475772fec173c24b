"""What people use instead: the kernel's overlayfs, fuse-overlayfs and unionfs-fuse over one tree."""

import contextlib
import subprocess

from .harness import WORK, fresh, remove, run

# Each with a writable layer of its own above `lower`, and with its defaults.
COMMANDS = {
    "overlayfs": ["mount", "-t", "overlay", "overlay", "-o",
                  "lowerdir={lower},upperdir={upper},workdir={work}", "{mount}"],
    "fuse-overlayfs": ["fuse-overlayfs", "-o",
                       "lowerdir={lower},upperdir={upper},workdir={work},dev,suid,allow_other", "{mount}"],
    "unionfs-fuse": ["unionfs", "-o", "cow,dev,suid,allow_other", "{upper}=RW:{lower}=RO", "{mount}"],
}


class Peer:
    """A mount of a tree by another program; what is written to it stays until `remove`."""

    def __init__(self, program, lower, name="0", below=WORK):
        self.program = program
        self.root = below / f"{program}-{name}"
        remove(self.root)
        self.path = self.root / "mount"
        parts = {"lower": lower, "mount": self.path,
                 "upper": self.root / "upper", "work": self.root / "work"}
        for part in ["mount", "upper", "work"]:
            parts[part].mkdir(parents=True)
        self.command = [word.format(**parts) for word in COMMANDS[program]]

    def mount(self):
        run(*self.command)

    def unmount(self):
        run("umount", self.path)

    def remove(self):
        if self.path.is_mount():
            subprocess.run(["umount", "-l", self.path], check=False)
        remove(self.root)


@contextlib.contextmanager
def peers(lower, programs, name="0", below=WORK):
    """Mounts of one tree by several programs, by their names."""
    made = {}
    try:
        for program in programs:
            made[program] = Peer(program, lower, name, below)
            made[program].mount()
        yield {program: peer.path for program, peer in made.items()}
    finally:
        for peer in made.values():
            peer.remove()


@contextlib.contextmanager
def loop_device(kind, size):
    """A file system of a kind of its own, `size` bytes, on a file; yields where it is mounted."""
    image, place = fresh(f"{kind}.img"), WORK / kind
    place.mkdir(exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(size)
    run(f"mkfs.{kind}", "-q", image)
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        image.unlink()
