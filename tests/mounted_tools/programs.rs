//! Programs of an image that run while somebody wants to alter them.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use super::*;

/// A program that waits for the end of its input.
struct Running(Child);

impl Running {
    fn new(program: &Path) -> Running {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// Panics if it had to end in another way than by the end of its input.
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// What opens that would alter a program say; the error numbers.
fn alter(program: &Path) -> [Option<i32>; 3] {
    let errors = [
        File::options()
            .read(true)
            .custom_flags(libc::O_TRUNC)
            .open(program),
        File::options().write(true).truncate(true).open(program),
        File::options().write(true).open(program),
    ];
    errors.map(|opened| opened.err().and_then(|error| error.raw_os_error()))
}

/// With O_RDONLY and O_TRUNC the kernel lets a FUSE server empty the file before it finds out that
/// the program is running.
#[test]
fn a_running_program_cannot_be_emptied() {
    let Some(store) = twins("a_running_program_cannot_be_emptied") else {
        return;
    };
    let first = store.mount("first");
    let cat = fs::read("/bin/cat").unwrap();
    let mut outcomes = Vec::new();
    for root in [&store.place, &first.path] {
        let program = root.join("program");
        sample::copy(Path::new("/bin/cat"), &program);
        let running = Running::new(&program);
        let refused = alter(&program);
        assert!(fs::read(&program).unwrap() == cat, "{refused:?}");
        running.end();
        outcomes.push(refused);
    }
    assert_eq!(outcomes[0], [Some(libc::ETXTBSY); 3]);
    assert_eq!(outcomes[0], outcomes[1]);

    // A program that has ended may be.
    let program = first.join("program");
    script(
        &first.path,
        "until perl -e 'sysopen(F, \"program\", 01000) or exit 1'; do :; done",
    )
    .exits(0);
    assert_eq!(fs::metadata(&program).unwrap().len(), 0);
    finish(&store, [first]);
}
