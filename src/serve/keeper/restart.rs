//! When a daemon that has ended is started again.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// A daemon that has lived so long has begun well.
const BEGUN: Duration = Duration::from_secs(1);

/// The first delay, of a daemon that has not begun well.
const FIRST: Duration = Duration::from_millis(100);

/// The longest.
pub const LONGEST: Duration = Duration::from_secs(10);

/// What a keeper does when its daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It ends, too, with this exit code.
    End(u8),
    /// It starts the daemon again, after some time.
    Start(Duration),
}

/// What has been.
#[derive(Debug, Default)]
pub struct Restarts {
    delay: Duration,
}

impl Restarts {
    /// `lived`: how long the daemon did. `needed`: mounts wait for the next one, and nobody has said that it shall end.
    pub fn next(&mut self, status: ExitStatus, lived: Duration, needed: bool) -> Next {
        if status.success() || !needed {
            return Next::End(exit_code(status));
        }
        let delay = match lived >= BEGUN {
            true => Duration::ZERO,
            false => self.delay,
        };
        self.delay = (delay * 2).clamp(FIRST, LONGEST);
        Next::Start(delay)
    }
}

/// As a shell has it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| signal + 128);
    let code = status.code().or(signal);
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: i32 = 9;
    const FAILED: i32 = 4 << 8;
    const LONG: Duration = Duration::from_secs(2);
    const SHORT: Duration = Duration::from_millis(20);

    fn next(restarts: &mut Restarts, status: i32, lived: Duration, needed: bool) -> Next {
        restarts.next(ExitStatus::from_raw(status), lived, needed)
    }

    #[test]
    fn it_ends_when_no_mount_waits() {
        let mut restarts = Restarts::default();
        assert_eq!(next(&mut restarts, 0, LONG, true), Next::End(0));
        assert_eq!(next(&mut restarts, 0, LONG, false), Next::End(0));
        assert_eq!(next(&mut restarts, FAILED, SHORT, false), Next::End(4));
        assert_eq!(next(&mut restarts, KILLED, LONG, false), Next::End(137));
    }

    #[test]
    fn it_never_gives_up_while_one_waits() {
        let mut restarts = Restarts::default();
        let mut delays = Vec::new();
        for status in [KILLED, FAILED].into_iter().cycle().take(12) {
            match next(&mut restarts, status, SHORT, true) {
                Next::Start(delay) => delays.push(delay.as_millis()),
                end => panic!("{end:?}"),
            }
        }
        let expected = [
            0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000,
        ];
        assert_eq!(delays, expected);
        let at_once = Next::Start(Duration::ZERO);
        assert_eq!(next(&mut restarts, KILLED, LONG, true), at_once);
        assert_eq!(next(&mut restarts, KILLED, SHORT, true), Next::Start(FIRST));
    }
}
