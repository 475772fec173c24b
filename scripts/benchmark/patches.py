"""How large a patch for a real update is, beside what zstd makes of the changed files."""

import os
import shutil

from .harness import FOLDFS, MIB, WORK, amount, fresh, remove, report, run, say, stopwatch

# Of each the oldest and the newest version that this machine's archive has.
PACKAGES = ["libssl3", "openssl", "libc6"]
# At which foldfs packs. zstd itself has 3 as its default, and 19 as the highest that is not ultra.
OURS = 12
LEVELS = [3, OURS, 19]


def versions(package):
    """The versions that apt can have, the newest last."""
    found = {line.split("|")[1].strip() for line in run("apt-cache", "madison", package).splitlines()}
    ordered = []
    for version in found:
        older = [other for other in ordered if newer(version, other)]
        ordered.insert(len(older), version)
    return ordered


def newer(one, other):
    return os.system(f"dpkg --compare-versions '{one}' gt '{other}'") == 0


def unpacked(package, version, name):
    """The files of a package."""
    place, tree = fresh("package"), fresh(name)
    place.mkdir()
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}", cwd=place)
    archive, = place.iterdir()
    run("dpkg", "-x", archive, tree)
    remove(place)
    return tree


def contents(tree):
    """Regular files by path."""
    found = {}
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, tree)] = file.read()
    return found


def archive(tree, names, name):
    """A tar of these files of a tree; bytes."""
    listed = fresh("names")
    listed.write_text("".join(f"{one}\n" for one in sorted(names)))
    tar = fresh(name)
    run("tar", "--sort=name", "-C", tree, "-cf", tar, "-T", listed)
    return tar


def bench_patch(runs):
    say("a patch for an update, beside zstd --patch-from over a tar of the changed files")
    if shutil.which("zstd") is None:
        raise SystemExit("bench: zstd is missing")
    run("apt-get", "-qq", "update")
    for package in PACKAGES:
        found = versions(package)
        if len(found) < 2:
            report(f"{package}: only one version is to be had", ", ".join(found), "", None)
            continue
        old, new = unpacked(package, found[0], "old"), unpacked(package, found[-1], "new")
        before, after = contents(old), contents(new)
        changed = [name for name, content in after.items() if before.get(name) != content]
        patch = fresh("package.patch")
        command = [FOLDFS, "patch", "create", f"{old}/", f"{new}/", "-o", patch]
        times = [stopwatch(*command) for _ in range(runs)]
        size = patch.stat().st_size
        what = f"{package} {found[0]} to {found[-1]}"
        bytes_changed = sum(len(after[name]) for name in changed)
        report(f"{what}: {len(changed)} files changed",
               f"{bytes_changed / MIB:.1f} MiB, patch of {size / 1024:.0f} KiB in {amount(times)}", "", None)
        reference = archive(old, [name for name in changed if name in before], "old.tar")
        tar = archive(new, changed, "new.tar")
        for level in LEVELS:
            packed = fresh("new.tar.zst")
            run("zstd", "-q", f"-{level}", f"--patch-from={reference}", tar, "-o", packed)
            theirs = packed.stat().st_size
            bound = "at most 1.2" if level <= OURS else ""
            holds = size / theirs <= 1.2 if bound else None
            report(f"{what}: size relative to zstd -{level} --patch-from",
                   f"{size / theirs:.2f}; {size / 1024:.0f} KiB / {theirs / 1024:.0f} KiB", bound, holds)
        for path in [old, new, patch, reference, tar, WORK / "new.tar.zst", WORK / "names"]:
            remove(path)
