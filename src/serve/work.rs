//! The calls that a daemon carries out, and when it takes no more of them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::protocol::ENDING;
use super::replacement::Program;
use crate::error::{Error, Result};

/// How long who wants to replace the daemon waits for calls that are under way.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Serving,
    /// Another program is to take its place: as soon as there is one here, which is when no call is under way.
    Replacing(Option<Program>),
    Ending,
}

#[derive(Debug, Default)]
struct State {
    /// Calls under way.
    calls: usize,
    phase: Phase,
}

/// What a daemon does at the moment.
#[derive(Debug, Default)]
pub(super) struct Work {
    state: Mutex<State>,
    changed: Condvar,
}

impl Work {
    /// A call begins.
    ///
    /// # Errors
    /// [`ENDING`]: no more are taken.
    pub(super) fn begin(&self) -> Result<()> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Serving => {
                state.calls += 1;
                Ok(())
            }
            Phase::Replacing(_) | Phase::Ending => Err(ending()),
        }
    }

    /// A call has ended.
    pub(super) fn done(&self) {
        self.state.lock().calls -= 1;
        self.changed.notify_all();
    }

    /// No more calls are taken.
    pub(super) fn end(&self) {
        self.state.lock().phase = Phase::Ending;
        self.changed.notify_all();
    }

    /// The same, but not while a call is under way, or another program takes over; whether it is so.
    pub(super) fn end_if_idle(&self) -> bool {
        let mut state = self.state.lock();
        let idle = state.calls == 0 && matches!(state.phase, Phase::Serving);
        if idle {
            state.phase = Phase::Ending;
        }
        idle
    }

    /// Whether it is time to end.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Ending)
    }

    /// Takes no more calls, and waits for those under way, for this is one itself. Then `program` is to take over.
    ///
    /// # Errors
    /// Busy: they take too long, and nothing has changed. [`ENDING`].
    pub(super) fn replace(&self, program: Program) -> Result<()> {
        self.replace_within(PATIENCE, program)
    }

    fn replace_within(&self, patience: Duration, program: Program) -> Result<()> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Serving) {
            return Err(ending());
        }
        state.phase = Phase::Replacing(None);
        while state.calls > 1 && matches!(state.phase, Phase::Replacing(_)) {
            let rest = patience.saturating_sub(begun.elapsed());
            if self.changed.wait_for(&mut state, rest).timed_out() && rest.is_zero() {
                state.phase = Phase::Serving;
                let cause = "it is at work for other commands";
                return Err(Error::busy("the daemon", cause)
                    .remedy("try again when they are done: nothing has changed"));
            }
        }
        match state.phase {
            Phase::Replacing(_) => {
                state.phase = Phase::Replacing(Some(program));
                Ok(())
            }
            Phase::Serving | Phase::Ending => Err(ending()),
        }
    }

    /// Waits until no call is under way.
    pub(super) fn wait(&self) {
        let mut state = self.state.lock();
        while state.calls > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// The program that is to take over.
    pub(super) fn successor(&self) -> Option<Program> {
        match &mut self.state.lock().phase {
            Phase::Replacing(program) => program.take(),
            Phase::Serving | Phase::Ending => None,
        }
    }

    /// It has not: calls are taken again, unless it is time to end.
    pub(super) fn go_on(&self) {
        let mut state = self.state.lock();
        if let Phase::Replacing(_) = state.phase {
            state.phase = Phase::Serving;
        }
    }
}

fn ending() -> Error {
    Error {
        errno: Some(ENDING),
        ..Error::busy("the daemon", "it is ending").remedy("try again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn program() -> Program {
        Program::of_tests()
    }

    #[test]
    fn a_daemon_that_ends_takes_no_calls() {
        let work = Work::default();
        work.begin().unwrap();
        assert!(!work.end_if_idle());
        work.done();
        assert!(work.end_if_idle() && work.is_ending());
        assert_eq!(work.begin().unwrap_err().errno, Some(ENDING));
        assert_eq!(work.replace(program()).unwrap_err().errno, Some(ENDING));
        work.go_on();
        assert!(work.is_ending());
    }

    #[test]
    fn who_replaces_waits_for_others_but_not_for_ever() {
        let work = Work::default();
        work.begin().unwrap();
        work.begin().unwrap();
        let busy = work.replace_within(Duration::from_millis(1), program());
        assert_eq!(busy.unwrap_err().kind, ErrorKind::Busy);
        // As if nothing had been.
        work.begin().unwrap();
        work.done();
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| work.replace(program()));
            while work.begin().is_ok() {
                work.done();
            }
            assert!(work.successor().is_none(), "a call is under way");
            work.done();
            replacing.join().unwrap().unwrap();
        });
        assert!(work.successor().is_some());
        assert!(!work.end_if_idle(), "another one takes over");
        work.done();
        work.wait();
        work.go_on();
        work.begin().unwrap();
    }

    #[test]
    fn to_end_comes_before_to_replace() {
        let work = Work::default();
        work.begin().unwrap();
        work.begin().unwrap();
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| work.replace(program()));
            while work.begin().is_ok() {
                work.done();
            }
            work.end();
            let refused = replacing.join().unwrap().unwrap_err();
            assert_eq!(refused.errno, Some(ENDING));
        });
        assert!(work.successor().is_none());
    }
}
