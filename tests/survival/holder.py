"""Holds all sorts of things in the directory $1, and says what they are like again and again: once for each line of
standard input."""

import fcntl
import itertools
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys

os.chdir(sys.argv[1])


def refused(call, *arguments, **named):
    try:
        return f"allowed: {call(*arguments, **named)}"
    except OSError as error:
        return os.strerror(error.errno)


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def mapping(path, flags, protection):
    with open(path, "rb" if protection == mmap.PROT_READ else "r+b") as file:
        return mmap.mmap(file.fileno(), 0, flags, protection)


def lock(fd, kind, start, length, command=fcntl.F_SETLK):
    return fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


OPEN_DESCRIPTION = 37
BOTH = mmap.PROT_READ | mmap.PROT_WRITE

# Shared files, none of which is altered before it is open.
reader = os.open("read", os.O_RDONLY)
promoted = os.open("promoted", os.O_RDONLY)
with open("promoted", "r+b") as file:
    file.write(b"written!")
gone = os.open("gone", os.O_RDONLY)
os.unlink("gone")
replaced = os.open("replaced", os.O_RDONLY)
write("replacement", b"another one")
os.rename("replacement", "replaced")
moved = os.open("directory/inner", os.O_RDONLY)
os.rename("directory", "renamed directory")
shared_map = mapping("mapped shared", mmap.MAP_SHARED, mmap.PROT_READ)
linked = os.open("linked", os.O_RDWR)
os.link("linked", "second link")
os.unlink("linked")
given_mode = os.open("given mode", os.O_RDONLY)
os.chmod("given mode", 0o640)

# New ones.
write("new", b"new")
new = os.open("new", os.O_RDWR)
nameless = os.open("nameless", os.O_RDWR | os.O_CREAT)
os.write(nameless, b"no name")
os.unlink("nameless")
append = os.open("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
write("mapped", b"." * 20000)
private_map = mapping("mapped", mmap.MAP_SHARED, BOTH)
write("mapped and gone", b"-" * 20000)
gone_map = mapping("mapped and gone", mmap.MAP_SHARED, BOTH)
os.unlink("mapped and gone")
path_only = os.open("new", os.O_PATH)

# Locks of three kinds.
locks = []
for name in ("flock", "posix", "description"):
    write(name, b"")
    locks.append(os.open(name, os.O_RDWR))
fcntl.flock(locks[0], fcntl.LOCK_EX)
lock(locks[1], fcntl.F_WRLCK, 5, 10)
lock(locks[2], fcntl.F_WRLCK, 5, 10, OPEN_DESCRIPTION)

# Directories.
os.makedirs("removed/below")
removed = os.open("removed", os.O_RDONLY)
stays = subprocess.Popen(["sh"], cwd="removed/below", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, bufsize=1)
stays.stdin.write("echo begun\n")
assert stays.stdout.readline() == "begun\n"
os.rmdir("removed/below")
os.rmdir("removed")
os.mkdir("large")
for number in range(600):
    write(f"large/{number}", b"")
listing = os.scandir("large")
listed = [next(listing).name for _ in range(7)]
held_directory = os.open("renamed directory", os.O_RDONLY)

# A program that runs, one that was replaced while it does, and one that is being written.
for name in ("runs", "ran"):
    subprocess.run(["cp", "/bin/sleep", name], check=True)
running = [subprocess.Popen(["./" + name, "1000"]) for name in ("runs", "ran")]
os.unlink("ran")
subprocess.run(["cp", "/bin/true", "written"], check=True)
written = os.open("written", os.O_WRONLY)

# What is none of a file system's business but for its name.
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.listen()
numbers = {name: os.stat(name).st_ino for name in os.listdir(".")}


def other(call):
    """In another process."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(into, call().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    return os.read(out, 1000).decode()


def lock_attempts():
    files = [os.open(name, os.O_RDWR) for name in ("flock", "posix", "description")]
    yield refused(fcntl.flock, files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in files[1:]:
        for start, length in ((0, 5), (14, 1), (15, 5)):
            found = refused(lock, fd, fcntl.F_WRLCK, start, length, OPEN_DESCRIPTION)
            yield found.split(":")[0]


def in_the_directory(line):
    stays.stdin.write(line + "; echo \"ended $?\"\n")
    said = []
    while not said or not said[-1].startswith("ended"):
        line = stays.stdout.readline()
        assert line, said
        said.append(line.strip())
    return said


def look(turn):
    yield "reader", os.pread(reader, 30, 3), os.fstat(reader).st_nlink
    yield "promoted", os.fstat(promoted).st_size, read("promoted")
    yield "gone", os.pread(gone, 30, 0), os.fstat(gone).st_nlink, refused(os.stat, "gone")
    yield "gone, again by its descriptor", read(f"/proc/self/fd/{gone}")[:30]
    yield "replaced", os.pread(replaced, 30, 0), os.fstat(replaced).st_nlink, read("replaced")
    yield "moved", os.pread(moved, 30, 0), read("renamed directory/inner")
    yield "mapped shared", bytes(shared_map[5000:5020]), sum(shared_map[::4096])
    os.pwrite(linked, b"turn %d" % turn, 5)
    yield "linked", os.fstat(linked).st_nlink, read("second link")[:20], refused(os.stat, "linked")
    yield "given mode", oct(os.fstat(given_mode).st_mode), os.pread(given_mode, 10, 0)
    os.fchmod(given_mode, 0o640 + turn)

    os.write(new, b" turn %d" % turn)
    yield "new", os.pread(new, 100, 0), read("new"), os.fstat(path_only).st_size
    yield "nameless", os.pread(nameless, 100, 0), os.fstat(nameless).st_nlink
    os.write(nameless, b" turn %d" % turn)
    os.fchmod(nameless, 0o600 + turn)
    yield "nameless", os.pread(nameless, 100, 0), oct(os.fstat(nameless).st_mode)
    os.ftruncate(nameless, 14)
    os.lseek(nameless, 0, os.SEEK_END)
    os.setxattr(nameless, "user.turn", b"%d" % turn)
    yield "nameless", os.fstat(nameless).st_size, os.getxattr(nameless, "user.turn")
    os.write(append, b"turn %d\n" % turn)
    yield "appended", read("appended")

    for found in (private_map, gone_map):
        found[100 + turn] = ord("t")
        found.flush()
        found[9000 + turn] = ord("u")
        yield "mapped", bytes(found[95:110]), bytes(found[8995:9010])
    yield "mapped", read("mapped")[95:110], read("mapped")[8995:9010]

    yield "locks", other(lambda: ", ".join(lock_attempts()))

    yield "removed", os.fstat(removed).st_nlink, os.listdir(removed), refused(os.stat, ".", dir_fd=removed)[:7]
    yield "removed", refused(os.open, "made", os.O_CREAT | os.O_WRONLY, dir_fd=removed)
    yield "stays", in_the_directory("ls -A; true >file")
    yield "directory", sorted(os.listdir(held_directory))
    with open(f"renamed directory/turn {turn}", "w") as file:
        file.write("")
    yield "directory", os.stat(f"turn {turn}", dir_fd=held_directory).st_size
    listed.extend(entry.name for entry in itertools.islice(listing, 120))

    yield "programs", [child.poll() for child in running], refused(os.open, "runs", os.O_WRONLY)
    yield "programs", refused(os.truncate, "runs", 0), refused(subprocess.run, ["./written"])
    yield "programs", [os.readlink(f"/proc/{child.pid}/exe").split("/")[-1] for child in running]
    yield "programs", [read(f"/proc/{child.pid}/exe") == read("/bin/sleep") for child in running]

    os.write(fifo, b"through the fifo")
    yield "fifo", os.read(fifo, 100)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("socket")
        client.send(b"through the socket")
        with server.accept()[0] as served:
            yield "socket", served.recv(100)
    changed = [name for name, number in numbers.items() if os.stat(name).st_ino != number]
    yield "numbers", changed
    yield "names", sorted(os.listdir("."))


print("holding", flush=True)
for turn, _ in enumerate(sys.stdin):
    for found in look(turn):
        print(turn, *found)
    print("looked", flush=True)
listed.extend(entry.name for entry in listing)
print("listed", len(listed), sorted(listed) == sorted(os.listdir("large")))
for child in running:
    child.send_signal(signal.SIGTERM)
    print("program", child.wait())
stays.stdin.close()
print("stays", stays.wait())
