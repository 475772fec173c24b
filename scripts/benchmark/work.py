"""What people do in an image: installing a package, git, a compiler; all in a chroot of it."""

import contextlib
import os
import stat

from .harness import TREES, WORK, fresh, foldfs, in_turns, mounted, remove, report_speed, run, say, stopwatch
from .peers import peers
from .walk import store_of

# It has more than 2,000 files and depends on nothing.
PACKAGE = "vim-runtime"
# Of the repository: how many files the other branch changes, and how much of a file there is.
CHANGED, HEAD = 2_000, 4096
UNITS = 60

# A namespace of its own, with which the mount for the chroot goes.
CHROOT = 'mount -t proc proc "$1/proc"; exec chroot "$1" /bin/bash -euc "$2"'

INSTALL = """export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 install /srv/package.deb"""
STATUS = "cd /srv/repository; test -z \"$(git status --short)\""
CHECKOUT = "cd /srv/repository; git checkout -q other; git checkout -q main"
COMPILE = "cd /srv/project; make -s -j2"
CLEAN = "cd /srv/project; make -s clean"

REPOSITORY = """cd /srv/repository
    git config --global user.name Worker; git config --global user.email worker@example.org
    git config --global gc.auto 0; git config --global advice.detachedHead false
    git init -q -b main .; git add -A; git commit -qm everything
    git checkout -q -b other; git ls-files | awk -v step=$(($(git ls-files | wc -l) / {changed})) 'NR % step == 0' |
        while read -r name; do echo changed >>"$name"; done
    git commit -qam changed; git checkout -q main; git repack -qad; git ls-files | wc -l"""


def chroot(place, script):
    return stopwatch("unshare", "--mount", "--propagation", "private", "sh", "-ec", CHROOT, "sh",
                     place, script)


def fetch_package():
    """The package, from the archive that this machine's apt knows; kept with the trees."""
    kept = TREES / "packages"
    found = sorted(kept.glob(f"{PACKAGE}_*.deb"))
    if not found:
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE, cwd=kept)
        found = sorted(kept.glob(f"{PACKAGE}_*.deb"))
    return found[-1]


def repository(tree):
    """The beginnings of all files of the system, twice."""
    system = os.fsencode(tree / "usr")
    for copy in [b"one", b"two"]:
        for directory, _, names in os.walk(system):
            below = os.fsencode(tree / "srv/repository") + b"/" + copy + directory[len(system):]
            os.makedirs(below, exist_ok=True)
            for name in names:
                path = os.path.join(directory, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    with open(path, "rb") as source, open(os.path.join(below, name), "wb") as file:
                        file.write(source.read(HEAD))
    done = chroot_output(tree, REPOSITORY.format(changed=CHANGED))
    return int(done.split()[-1])


def chroot_output(place, script):
    return run("unshare", "--mount", "--propagation", "private", "sh", "-ec", CHROOT, "sh", place, script)


def project(tree):
    """A program in many units, with a makefile."""
    place = tree / "srv/project"
    place.mkdir()
    headers = "".join(f"#include <{name}.h>\n" for name in [
        "ctype", "errno", "fcntl", "math", "signal", "stdio", "stdlib", "string", "time", "unistd"])
    for unit in range(UNITS):
        functions = "".join(
            f"int f{unit}_{number}(int x) {{ char text[64]; snprintf(text, sizeof text, \"%d\", x);"
            f" return atoi(text) % {number + 7} + (int)strlen(text); }}\n" for number in range(30))
        (place / f"unit{unit}.c").write_text(headers + functions)
    (place / "main.c").write_text("int f0_0(int);\nint main(void) { return f0_0(3); }\n")
    objects = "main.o " + " ".join(f"unit{unit}.o" for unit in range(UNITS))
    (place / "Makefile").write_text(
        f"CFLAGS = -O1\nprogram: {objects}\n\t$(CC) -o $@ $^ -lm\nclean:\n\trm -f program *.o\n")


def bench_work(runs):
    tree = fresh("workshop")
    run("cp", "-a", TREES / "workshop", tree)
    run("cp", fetch_package(), tree / "srv/package.deb")
    files = repository(tree)
    project(tree)
    say(f"work in a chroot: {PACKAGE}, a repository of {files} files, a C program of {UNITS} units")
    store = store_of(tree, "image0")
    images = [f"image{number}" for number in range(runs)]
    for image in images[1:]:
        foldfs(store, "clone", "image0", image)
    with contextlib.ExitStack() as stack:
        _, directory = stack.enter_context(mounted(store, "-o", "dev,suid,allow_other"))
        layered = [stack.enter_context(peers(tree, ["overlayfs", "fuse-overlayfs"], image)) for image in images]
        places = {"foldfs": [directory / image for image in images]}
        for peer in ["overlayfs", "fuse-overlayfs"]:
            places[peer] = [mounts[peer] for mounts in layered]

        def side(places):
            turns = iter(places)

            def work():
                place = next(turns)
                found = {"install": chroot(place, INSTALL)}
                # The first of each finds files with other times, or reads the compiler.
                chroot(place, STATUS)
                found["status"] = chroot(place, STATUS)
                found["checkout"] = chroot(place, CHECKOUT)
                chroot(place, f"{COMPILE}; {CLEAN}")
                found["compile"] = chroot(place, COMPILE)
                run("sync", "-f", WORK)
                return found

            return work

        found = in_turns(runs, {name: side(some) for name, some in places.items()})
    for operation, what in [
        ("install", f"apt-get install of {PACKAGE} (2,000 files)"),
        ("status", f"git status, {files} files"),
        ("checkout", f"git checkout of a branch, {CHANGED} files of them changed, and back"),
        ("compile", f"compiling a C program of {UNITS} units"),
    ]:
        report_speed(what, found, "overlayfs", operation, 0.7)
        report_speed(what, found, "fuse-overlayfs", operation)
    remove(store)
    remove(tree)
