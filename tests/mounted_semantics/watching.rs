//! Who watches files: inotify(7), fanotify(7), dnotify and leases see what happens in an image.

use std::process::Command;

use super::common::store::run;
use super::places::{Files, PLACES, Places};

/// Works on the file given, and tells what the watchers saw of it.
const SCRIPT: &str = r#"
import ctypes, errno, fcntl, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1]
place = os.path.dirname(path)

def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def tell(what, attempt):
    try:
        print(what, attempt(), flush=True)
    except OSError as error:
        print(what, os.strerror(error.errno), flush=True)

# inotify: everything that happens to the file and in its directory, in order.
inotify = call(libc.inotify_init1(os.O_NONBLOCK))
watched = {call(libc.inotify_add_watch(inotify, name.encode(), 0xfff)): what
           for name, what in ((place, "place"), (path, "file"))}
def events():
    told = []
    while True:
        try:
            buffer = os.read(inotify, 65536)
        except BlockingIOError:
            return told
        while buffer:
            watch, mask, cookie, length = struct.unpack_from("iIII", buffer)
            name = buffer[16:16 + length].rstrip(b"\0")
            told.append((watched[watch], hex(mask), cookie != 0, name))
            buffer = buffer[16 + length:]
def seen(what, work):
    work()
    print(what, events(), flush=True)
def written():
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    os.pread(fd, 10, 0)
    os.close(fd)
seen("write", written)
seen("truncate", lambda: os.truncate(path, 5000))
seen("chmod", lambda: os.chmod(path, 0o600))
seen("xattr", lambda: os.setxattr(path, "user.seen", b"x"))
seen("link", lambda: os.link(path, path + ".link"))
seen("rename", lambda: os.rename(path, path + ".moved"))
seen("rename back", lambda: os.rename(path + ".moved", path))
seen("mkdir", lambda: os.mkdir(path + ".d"))
seen("rmdir", lambda: os.rmdir(path + ".d"))
seen("list", lambda: os.listdir(place))
seen("unlink", lambda: os.unlink(path + ".link"))
os.close(inotify)

# fanotify: by descriptor, of the mount.
fanotify = call(libc.fanotify_init(2, os.O_RDONLY))
call(libc.fanotify_mark(fanotify, 1, ctypes.c_ulong(0x2a), -100, path.encode()))
written()
buffer = os.read(fanotify, 4096)
while buffer:
    length, version, _, _, mask, fd, pid = struct.unpack_from("IBBHQii", buffer)
    print("fanotify", hex(mask), os.fstat(fd).st_ino == os.stat(path).st_ino, pid == os.getpid())
    os.close(fd)
    buffer = buffer[length:]
os.close(fanotify)

# dnotify: a signal for each change of a directory.
signals = []
signal.signal(signal.SIGIO, lambda *_: signals.append("io"))
directory = os.open(place, os.O_RDONLY)
fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_MULTISHOT)
open(path + ".new", "w").close()
os.unlink(path + ".new")
print("dnotify", len(signals) > 0)
os.close(directory)

# Leases: who has one, what refuses one, and who breaks one.
READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
def lease(fd, kind):
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    return fcntl.fcntl(fd, fcntl.F_GETLEASE)
reader = os.open(path, os.O_RDONLY)
tell("read lease", lambda: lease(reader, READ))
signals.clear()
def opened(flags):
    child = os.fork()
    if child == 0:
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
tell("opened for reading", lambda: opened(os.O_RDONLY))
tell("opened for writing", lambda: errno.errorcode.get(opened(os.O_WRONLY)))
tell("broken", lambda: (len(signals) > 0, fcntl.fcntl(reader, fcntl.F_GETLEASE)))
tell("given back", lambda: lease(reader, NONE))
tell("opened again", lambda: opened(os.O_WRONLY))
tell("write lease", lambda: lease(reader, WRITE))
tell("given back", lambda: lease(reader, NONE))
writer = os.open(path, os.O_RDWR)
tell("read lease beside a writer", lambda: lease(reader, READ))
tell("write lease of one of two", lambda: lease(writer, WRITE))
os.close(reader)
tell("write lease", lambda: lease(writer, WRITE))
tell("opened for reading", lambda: errno.errorcode.get(opened(os.O_RDONLY)))
os.close(writer)
directory = os.open(place, os.O_RDONLY)
tell("lease of a directory", lambda: lease(directory, READ))
"#;

#[test]
fn watchers_see_what_they_see_in_a_plain_directory() {
    let test = "watchers_see_what_they_see_in_a_plain_directory";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    for place in PLACES {
        let [expected, found] = [&places.plain, &places.first.path].map(|root| {
            let path = root.join(place).join("file");
            let mut command = Command::new("python3");
            let ran = run(command.args(["-c", SCRIPT]).arg(path), b"").exits(0);
            ran.text()
        });
        assert!(expected.contains("write [('place'"), "{expected}");
        assert!(expected.contains("opened for writing EAGAIN"), "{expected}");
        for (expected, found) in expected.lines().zip(found.lines()) {
            assert_eq!(found, expected, "{place}");
        }
        assert_eq!(expected.lines().count(), found.lines().count(), "{place}");
    }
    places.finish();
}
