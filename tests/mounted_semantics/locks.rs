//! Locks of all three kinds, between processes: what excludes what, and what lets go of them.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::common::store::run;
use super::places::{Files, PLACES, Places};

/// Takes and tries locks in two processes and tells what each got. The file is promoted while
/// locks are held; a writer that is no party to them does it.
const SCRIPT: &str = r#"
import fcntl, os, struct, sys
path = sys.argv[1]

def posix(fd, kind, start=0, length=0, command=fcntl.F_SETLK):
    return fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

def open_description(fd, kind, start=0, length=0):
    return posix(fd, kind, start, length, 37)

def tell(what, attempt):
    try:
        attempt()
        print(what, "granted", flush=True)
    except OSError as error:
        print(what, os.strerror(error.errno), flush=True)

def other(attempt):
    """In another process, on a descriptor of its own."""
    if os.fork() == 0:
        attempt(os.open(path, os.O_RDWR))
        os._exit(0)
    os.wait()

def all_kinds(when):
    def attempt(fd):
        tell(when + ": flock shared", lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB))
        tell(when + ": flock exclusive", lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
        for start, length in ((0, 10), (10, 10), (0, 0)):
            where = f"{when}: {start}+{length}"
            tell(where + " posix read", lambda: posix(fd, fcntl.F_RDLCK, start, length))
            tell(where + " posix write", lambda: posix(fd, fcntl.F_WRLCK, start, length))
            posix(fd, fcntl.F_UNLCK)
            tell(where + " ofd write", lambda: open_description(fd, fcntl.F_WRLCK, start, length))
            open_description(fd, fcntl.F_UNLCK)
    other(attempt)

def promote():
    # Not by this process: its closing any descriptor would let go of its POSIX locks.
    other(lambda fd: os.pwrite(fd, b"promoted", 3))

fd = os.open(path, os.O_RDWR)
all_kinds("free")
fcntl.flock(fd, fcntl.LOCK_SH)
all_kinds("flocked shared")
promote()
all_kinds("flocked shared and promoted")
fcntl.flock(fd, fcntl.LOCK_EX)
all_kinds("flocked exclusive")
again = os.dup(fd)
os.close(fd)
all_kinds("closed but for a duplicate")
os.close(again)
all_kinds("closed")

fd = os.open(path, os.O_RDWR)
posix(fd, fcntl.F_WRLCK, 0, 10)
all_kinds("posix locked")
os.truncate(path, 100)
all_kinds("posix locked and truncated")
holder = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0)))
print("own lock", holder[0] == fcntl.F_UNLCK)
def who(fd):
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    kind, whence, start, length, pid = struct.unpack("hhqqi4x", answer)
    print("held by its process", pid == os.getppid(), kind == fcntl.F_WRLCK, start, length, flush=True)
other(who)
os.close(os.open(path, os.O_RDONLY))
all_kinds("another descriptor closed")
os.close(fd)

fd = os.open(path, os.O_RDWR)
open_description(fd, fcntl.F_WRLCK, 10, 10)
os.close(os.open(path, os.O_RDONLY))
all_kinds("ofd locked")
other_description = os.open(path, os.O_RDWR)
tell("ofd in the same process", lambda: open_description(other_description, fcntl.F_WRLCK, 0, 0))
os.close(fd)
all_kinds("ofd closed")

# A process that is killed lets go of everything, and who waits gets it.
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    posix(fd, fcntl.F_WRLCK)
    os.write(writer, b"x")
    import signal
    signal.pause()
os.read(reader, 1)
all_kinds("held by another")
waiter = os.fork()
if waiter == 0:
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    posix(fd, fcntl.F_WRLCK, 0, 0, fcntl.F_SETLKW)
    print("waited for", flush=True)
    os._exit(0)
os.kill(child, 9)
os.waitpid(child, 0)
os.waitpid(waiter, 0)
all_kinds("killed")
"#;

#[test]
fn locks_exclude_and_are_let_go_as_in_a_plain_directory() {
    let test = "locks_exclude_and_are_let_go_as_in_a_plain_directory";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    let mut lines = String::new();
    for place in PLACES {
        let told = [&places.plain, &places.first.path].map(|root| {
            let path = root.join(place).join("file");
            let mut command = Command::new("python3");
            run(command.args(["-c", SCRIPT]).arg(path), b"")
                .exits(0)
                .text()
        });
        for line in [
            "flocked shared and promoted: flock exclusive Resource temporarily unavailable",
            "posix locked and truncated: 0+10 posix read Resource temporarily unavailable",
            "ofd locked: 10+10 ofd write Resource temporarily unavailable",
            "killed: flock exclusive granted",
        ] {
            assert!(
                told[0].lines().any(|told| told == line),
                "{line}: {}",
                told[0]
            );
        }
        for (expected, found) in told[0].lines().zip(told[1].lines()) {
            if expected != found {
                writeln!(lines, "{place}: {found}, in a plain directory {expected}").unwrap();
            }
        }
        assert_eq!(told[0].lines().count(), told[1].lines().count(), "{place}");
    }
    assert!(lines.is_empty(), "\n{lines}");
    places.finish();
}

/// A lock lies on the inode: it is held under every name, and when the file is folded.
#[test]
fn locks_hold_under_every_name_and_over_a_fold() {
    let test = "locks_hold_under_every_name_and_over_a_fold";
    let Some(places) = Places::new(test, &Files::default()) else {
        return;
    };
    for place in PLACES {
        let (path, link) = (
            places.first.join(place).join("file"),
            places.first.join(place).join("link"),
        );
        for root in [&places.plain, &places.first.path] {
            let place = root.join(place);
            std::fs::hard_link(place.join("file"), place.join("link")).unwrap();
        }
        let held = OpenOptions::new().read(true).open(&path).unwrap();
        held.lock().unwrap();
        places.store.ok(&["fold"]);
        for name in [&path, &link] {
            let other = OpenOptions::new().write(true).open(name).unwrap();
            assert!(other.try_lock().is_err(), "{place}");
            other.write_all_at(b"promoted", 9).unwrap();
            assert!(other.try_lock().is_err(), "{place} after a promotion");
        }
        drop(held);
        let other = OpenOptions::new().read(true).open(&link).unwrap();
        other.try_lock().unwrap();
        drop(other);
        for name in ["file", "link"] {
            let path = places.plain.join(place).join(name);
            let plain = OpenOptions::new().write(true).open(path).unwrap();
            plain.write_all_at(b"promoted", 9).unwrap();
        }
    }
    places.finish();
}
