//! Stops one of two at a durable step, has the other run to its end or to where it must wait, and
//! lets both go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use foldfs::sys::durable;
use parking_lot::Mutex;

/// What the other one did while the first was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The first one has not so many steps.
    NotReached,
    /// All of it.
    Done,
    /// It waits for the first one.
    Waits,
}

/// One test at a time has the hook.
static HOOK: Mutex<()> = Mutex::new(());

/// It waits if it is found in a futex so often, a millisecond apart, with no step in between.
const LOOKS: u32 = 8;

#[derive(Default)]
struct State {
    /// Steps of the first one.
    steps: AtomicUsize,
    /// Steps of the second one.
    others: AtomicUsize,
    /// The second one may begin.
    go: AtomicBool,
    /// The thread of the second one.
    thread: AtomicI32,
    done: AtomicBool,
    waits: AtomicBool,
}

impl State {
    /// A step of the first one: the second has its turn before it, if it is the one.
    fn step(&self, at: usize) {
        if self.steps.fetch_add(1, Ordering::SeqCst) != at {
            return;
        }
        self.go.store(true, Ordering::SeqCst);
        let (mut looks, mut steps) = (0, usize::MAX);
        while !self.done.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
            let now = self.others.load(Ordering::SeqCst);
            looks = match self.is_in_a_futex() && now == steps {
                true => looks + 1,
                false => 0,
            };
            steps = now;
            if looks == LOOKS {
                self.waits.store(true, Ordering::SeqCst);
                return;
            }
        }
    }

    fn is_in_a_futex(&self) -> bool {
        let thread = self.thread.load(Ordering::SeqCst);
        let path = format!("/proc/self/task/{thread}/syscall");
        let number = format!("{} ", libc::SYS_futex);
        thread > 0 && std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(&number))
    }
}

/// The operation gets a function that is a step of its own where it has no durable one.
pub fn interleave(
    collect_is_first: bool,
    at: usize,
    operation: &(dyn Fn(&dyn Fn()) + Sync),
    collect: &(dyn Fn() + Sync),
) -> Met {
    let _alone = HOOK.lock();
    let state = Arc::new(State::default());
    thread::scope(|scope| {
        let second = {
            let state = state.clone();
            scope.spawn(move || {
                let this = rustix::thread::gettid().as_raw_nonzero().get();
                state.thread.store(this, Ordering::SeqCst);
                while !state.go.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_micros(50));
                }
                match collect_is_first {
                    true => operation(&|| ()),
                    false => collect(),
                }
                state.done.store(true, Ordering::SeqCst);
            })
        };
        // A collect has one thread; an operation may have many.
        let collects = match collect_is_first {
            true => thread::current().id(),
            false => second.thread().id(),
        };
        let of_first = move || (thread::current().id() == collects) == collect_is_first;
        let hooked = state.clone();
        durable::set_hook(Some(Arc::new(move |_, _| {
            match of_first() {
                true => hooked.step(at),
                false => {
                    hooked.others.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok(())
        })));
        match collect_is_first {
            true => collect(),
            false => operation(&|| state.step(at)),
        }
        let reached = state.go.swap(true, Ordering::SeqCst);
        // Without its turn it runs now: the caller does not look at it.
        second.join().unwrap();
        durable::set_hook(None);
        match (reached, state.waits.load(Ordering::SeqCst)) {
            (false, _) => Met::NotReached,
            (true, true) => Met::Waits,
            (true, false) => Met::Done,
        }
    })
}
