"""What a guest does with its files. Everything printed is the same wherever the same was done."""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys

HERE = "/srv/work"
OPERATIONS = []


def operation(function):
    OPERATIONS.append(function)
    return function


def refused(call, *arguments, **named):
    """The name of the error that a call gives."""
    try:
        result = call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]
    return f"allowed: {result}"


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def hash_of(path):
    return hashlib.sha256(read(path)).hexdigest()


def look(path):
    found = os.lstat(path)
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return f"{found.st_mode:o} {found.st_uid}:{found.st_gid} {found.st_nlink} {size}"


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return f"{done.returncode} {done.stdout}"


def as_user(call, *arguments, **named):
    """What a call gives an ordinary user, without supplementary groups."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        os.write(writer, refused(call, *arguments, **named).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    return os.read(reader, 1000).decode()


@operation
def files_are_made_and_read():
    write("made", b"content" * 10000)
    return len(read("made")), look("made")


@operation
def shared_files_are_appended_to():
    with open("/etc/bash.bashrc", "ab") as file:
        file.write(b"# appended\n")
    return read("/etc/bash.bashrc")[-40:], look("/etc/bash.bashrc")


@operation
def shared_files_are_truncated():
    os.truncate("/etc/profile", 100)
    os.truncate("/usr/share/perl5/Debconf/Client/ConfModule.pm", 10)
    return read("/usr/share/perl5/Debconf/Client/ConfModule.pm")


@operation
def shared_files_are_written_in_the_middle():
    with open("/usr/share/common-licenses/GPL-3", "r+b") as file:
        file.seek(5000)
        file.write(b"in the middle")
    return hash_of("/usr/share/common-licenses/GPL-3")


@operation
def hard_links():
    os.link("made", "linked")
    os.link("/etc/debian_version", "/etc/debian_version.too")
    with open("linked", "ab") as file:
        file.write(b"by the other name")
    os.unlink("made")
    write("/etc/debian_version.too", b"another\n")
    return look("linked"), read("/etc/debian_version"), look("/etc/debian_version")


@operation
def symbolic_links():
    os.symlink("linked", "symbolic")
    os.symlink("x" * 1000, "long")
    os.symlink("loop", "loop")
    return os.readlink("symbolic"), len(os.readlink("long")), refused(open, "loop"), look("symbolic")


@operation
def renames():
    write("first", b"1")
    write("second", b"22")
    os.rename("first", "second")
    os.rename("/usr/share/common-licenses", "/usr/share/licenses")
    os.mkdir("full")
    write("full/file", b"")
    os.mkdir("other")
    return (
        read("second"),
        refused(os.rename, "other", "full"),
        refused(os.rename, "full", "full/below"),
        refused(os.rename, "second", "full"),
        len(os.listdir("/usr/share/licenses")),
    )


@operation
def renames_that_exchange_and_do_not_replace():
    library = ctypes.CDLL(None, use_errno=True)

    def renameat2(old, new, flags):
        if library.renameat2(-100, old.encode(), -100, new.encode(), flags):
            raise OSError(ctypes.get_errno(), "")

    renameat2("second", "full", 2)
    return refused(renameat2, "linked", "second", 1), look("second"), look("full")


@operation
def directories():
    os.makedirs("a/b/c/d")
    os.rmdir("a/b/c/d")
    return (
        refused(os.rmdir, "a"),
        refused(os.mkdir, "a"),
        refused(os.unlink, "a"),
        refused(os.rmdir, "linked"),
        look("a/b"),
        refused(os.stat, "linked/below"),
    )


@operation
def names():
    os.mkdir("names")
    for name in [b"\xff\xfe", b"new\nline", b"n" * 255, ".wh.x".encode(), "ä".encode()]:
        write(b"names/" + name, b"")
    return sorted(os.listdir(b"names")), refused(write, "names/" + "n" * 256, b"")


@operation
def many_names_are_listed_and_removed():
    os.mkdir("many")
    for number in range(300):
        write(f"many/{number}", b"")
    found = len(os.listdir("many"))
    for number in range(0, 300, 2):
        os.unlink(f"many/{number}")
    return found, len(os.listdir("many"))


@operation
def devices():
    os.mknod("character", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod("block", stat.S_IFBLK | 0o640, os.makedev(7, 0))
    os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    write("character", b"into the void")
    found = os.stat("character").st_rdev, os.stat("block").st_rdev, os.stat("zero").st_rdev
    return found, read("character"), look("block")


@operation
def fifos():
    os.mkfifo("fifo", 0o622)
    child = os.fork()
    if child == 0:
        write("fifo", b"through the fifo")
        os._exit(0)
    found = read("fifo")
    os.waitpid(child, 0)
    return found, look("fifo")


@operation
def sockets():
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    accepted, _ = server.accept()
    client.sendall(b"hello")
    found = accepted.recv(10)
    again = socket.socket(socket.AF_UNIX)
    return found, look("socket").split()[0], refused(again.bind, "socket")


@operation
def user_xattrs():
    os.setxattr("linked", "user.small", b"value")
    os.setxattr("linked", "user.large", b"v" * 2000)
    os.setxattr("linked", "user.small", b"other", os.XATTR_REPLACE)
    return (
        sorted(os.listxattr("linked")),
        os.getxattr("linked", "user.small"),
        refused(os.setxattr, "linked", "user.small", b"", os.XATTR_CREATE),
        refused(os.getxattr, "linked", "user.none"),
        refused(os.removexattr, "linked", "user.none"),
        refused(os.setxattr, "symbolic", "user.x", b"", follow_symlinks=False),
    )


@operation
def trusted_xattrs():
    os.setxattr("linked", "trusted.mine", b"value")
    os.setxattr("a", "trusted.overlay.opaque", b"y")
    return (
        os.getxattr("linked", "trusted.mine"),
        os.listxattr("a"),
        as_user(os.getxattr, "linked", "trusted.mine"),
    )


@operation
def security_xattrs():
    write("capable", b"")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr("capable", "security.capability", capability)
    found = os.getxattr("capable", "security.capability")
    with open("capable", "ab") as file:
        file.write(b"x")
    return found, os.listxattr("capable")


@operation
def access_control_lists():
    os.mkdir("shared")
    made = run("setfacl", "-m", "u:1000:rwx,d:u:1000:rw,d:g:50:r", "shared")
    write("shared/inside", b"")
    return made, run("getfacl", "-cn", "shared", "shared/inside"), look("shared/inside")


@operation
def users_are_held_to_modes():
    write("private", b"secret")
    os.chmod("private", 0o600)
    return (
        as_user(read, "private"),
        as_user(write, "shared/theirs", b"theirs"),
        as_user(write, "a/theirs", b""),
        as_user(os.chmod, "private", 0o644),
        look("shared/theirs"),
    )


@operation
def owners_and_modes():
    write("owned", b"")
    os.chmod("owned", 0o6755)
    before = look("owned")
    os.chown("owned", 12, 34)
    os.chmod("/etc/hostname", 0o640)
    os.lchown("symbolic", 5, 6)
    return before, look("owned"), look("symbolic"), look("/etc/hostname")


@operation
def set_id_bits_go_with_a_write():
    write("program", b"x")
    os.chmod("program", 0o6777)
    return as_user(write, "program", b"new"), look("program")


@operation
def set_gid_directories():
    os.mkdir("group")
    os.chown("group", 0, 50)
    os.chmod("group", 0o2775)
    write("group/file", b"")
    os.mkdir("group/below")
    return look("group/file"), look("group/below")


@operation
def sticky_directories():
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/root", b"")
    return as_user(os.unlink, "sticky/root"), as_user(write, "sticky/own", b"")


@operation
def times():
    os.utime("linked", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    os.utime("symbolic", ns=(5, 7), follow_symlinks=False)
    return os.stat("linked").st_mtime_ns, os.lstat("symbolic").st_mtime_ns


@operation
def file_locks():
    holder = os.open("linked", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    other = os.open("linked", os.O_RDWR)
    flock = refused(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(holder, fcntl.LOCK_UN)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return flock


@operation
def record_locks():
    file = os.open("second/../linked", os.O_RDWR)
    fcntl.lockf(file, fcntl.LOCK_EX, 100, 50)
    outcomes = []
    for start in (0, 120, 150):
        outcomes.append(as_root_elsewhere(start))
    os.close(file)
    return outcomes, as_root_elsewhere(120)


def as_root_elsewhere(start):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        file = os.open("linked", os.O_RDWR)
        found = refused(fcntl.lockf, file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
        os.write(writer, found.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    return os.read(reader, 100).decode()


@operation
def mappings_for_reading():
    with open("/usr/bin/bash", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
        return mapped[:4], mapped.find(b"GNU bash"), len(mapped)


@operation
def mappings_for_writing():
    write("mapped", b"." * 20000)
    with open("mapped", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        mapped[9000:9006] = b"mapped"
        mapped.flush()
        mapped.close()
    return read("mapped")[8998:9008]


@operation
def shared_files_are_mapped_for_writing():
    with open("/usr/share/perl5/Debconf/Log.pm", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        mapped[0:6] = b"mapped"
        mapped.flush()
    return read("/usr/share/perl5/Debconf/Log.pm")[:30]


@operation
def private_mappings():
    with open("mapped", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)
        mapped[0:4] = b"mine"
        return mapped[:5], read("mapped")[:5]


@operation
def space_is_allocated():
    file = os.open("allocated", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(file, 0, 100000)
    os.pwrite(file, b"at the end", 99990)
    os.close(file)
    hole = run("fallocate", "--punch-hole", "--offset", "0", "--length", "4096", "allocated")
    keep = run("fallocate", "--keep-size", "--offset", "200000", "--length", "4096", "allocated")
    return hole, keep, look("allocated"), read("allocated")[-10:]


@operation
def sparse_files():
    file = os.open("sparse", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, b"data", 10_000_000)
    return (
        os.lseek(file, 0, os.SEEK_DATA) > 9_000_000,
        os.lseek(file, 0, os.SEEK_HOLE),
        os.fstat(file).st_size,
        refused(os.lseek, file, 20_000_000, os.SEEK_DATA),
    )


@operation
def ranges_are_copied():
    source = os.open("mapped", os.O_RDONLY)
    target = os.open("copied", os.O_RDWR | os.O_CREAT)
    copied = os.copy_file_range(source, target, 5000, 8000, 100)
    return copied > 0, read("copied")[:1100][-8:]


@operation
def files_without_a_name():
    file = os.open("nameless", os.O_RDWR | os.O_CREAT)
    os.write(file, b"still there")
    os.unlink("nameless")
    os.fchmod(file, 0o640)
    found = os.fstat(file)
    return os.pread(file, 20, 0), found.st_nlink, f"{found.st_mode:o}", refused(os.stat, "nameless")


@operation
def shared_files_without_a_name():
    file = os.open("/etc/issue", os.O_RDONLY)
    os.unlink("/etc/issue")
    write("/etc/issue", b"another\n")
    return len(os.read(file, 100)) > 10, read("/etc/issue")


@operation
def opened_in_every_way():
    return (
        refused(os.open, "linked", os.O_CREAT | os.O_EXCL),
        refused(os.open, "symbolic", os.O_NOFOLLOW),
        refused(os.open, "linked", os.O_DIRECTORY),
        refused(os.open, "a", os.O_WRONLY),
        refused(os.open, "none", os.O_RDONLY),
        os.read(os.open("linked", os.O_RDWR | os.O_TRUNC), 10),
    )


@operation
def everything_is_synced():
    file = os.open("synced", os.O_RDWR | os.O_CREAT)
    os.write(file, b"to the disk")
    os.fsync(file)
    os.fdatasync(file)
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)
    os.sync()
    return look("synced")


@operation
def programs_are_replaced_while_they_run():
    run("cp", "/usr/bin/sleep", "sleeping")
    child = subprocess.Popen(["./sleeping", "1000"])
    os.stat("sleeping")
    busy = refused(os.open, "sleeping", os.O_WRONLY)
    run("cp", "/usr/bin/true", "replacing")
    os.rename("replacing", "sleeping")
    alive = child.poll()
    child.kill()
    child.wait()
    return busy, alive, run("./sleeping")


@operation
def trees_are_removed():
    run("cp", "-a", "/usr/share/bash-completion", "copy")
    shutil.rmtree("copy")
    shutil.rmtree("/usr/share/bash-completion")
    return refused(os.stat, "copy"), refused(os.stat, "/usr/share/bash-completion")


@operation
def archives():
    options = ["--sort=name", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--acls"]
    return (
        run("tar", *options, "-cf", "archive.tar", "-C", "/usr/share", "debianutils"),
        run("tar", "-xf", "archive.tar"),
        run("diff", "-r", "debianutils", "/usr/share/debianutils"),
    )


@operation
def packages():
    installed = run("dpkg", "-i", "/opt/guest/sample.deb")
    purged = run("dpkg", "--purge", "attr")
    return installed, purged, run("dpkg-query", "-W", "sample", "attr"), run("sample"), run("dpkg", "--audit")


def main():
    os.umask(0o022)
    os.makedirs(HERE)
    os.chdir(HERE)
    for function in OPERATIONS:
        try:
            result = function()
        except Exception as error:
            result = f"failed: {error!r}"
        print(f"{function.__name__}: {result!r}")
    print(len(OPERATIONS), "operations")
    sys.stdout.flush()


main()
