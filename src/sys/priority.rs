//! The priority of a thread (ioprio_set(2), sched(7)).

#![allow(unsafe_code)]

use std::marker::PhantomData;

/// IOPRIO_WHO_PROCESS (linux/ioprio.h); with an id of 0 the calling thread.
const WHO_PROCESS: libc::c_int = 1;

/// IOPRIO_CLASS_IDLE.
const IDLE: libc::c_int = 3 << 13;

/// While it lives, the thread that made it reads when nobody else wants the disk, where the disk's
/// scheduler knows priorities, and computes when nobody else wants the core. Nothing that others wait
/// for may be done meanwhile, nor locked.
#[derive(Debug)]
pub struct Idle {
    reads: libc::c_int,
    policy: libc::c_int,
    /// A priority belongs to a thread.
    _thread: PhantomData<*const ()>,
}

impl Idle {
    /// Lowers the priority. What the system does not allow is left as it is: it costs only time.
    pub fn begin() -> Self {
        // SAFETY: both take integers and touch no memory.
        let (reads, policy) = unsafe {
            (
                libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0),
                libc::sched_getscheduler(0),
            )
        };
        set(IDLE, libc::SCHED_IDLE);
        Self {
            reads: libc::c_int::try_from(reads).unwrap_or(0).max(0),
            policy: policy.max(libc::SCHED_OTHER),
            _thread: PhantomData,
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        set(self.reads, self.policy);
    }
}

/// Gives this thread the usual priority: one that an idle thread has started is idle, too.
pub fn usual() {
    set(0, libc::SCHED_OTHER);
}

fn set(reads: libc::c_int, policy: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: ioprio_set takes integers; sched_setscheduler reads the parameters, which outlive it.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, reads);
        libc::sched_setscheduler(0, policy, &raw const parameters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priorities() -> (libc::c_long, libc::c_int) {
        // SAFETY: both take integers and touch no memory.
        unsafe {
            (
                libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0),
                libc::sched_getscheduler(0),
            )
        }
    }

    #[test]
    fn a_thread_is_idle_for_a_while_and_no_other_is() {
        let here = priorities();
        std::thread::spawn(move || {
            let before = priorities();
            let idle = Idle::begin();
            assert_eq!(priorities(), (IDLE.into(), libc::SCHED_IDLE));
            drop(idle);
            assert_eq!(priorities().1, before.1);
            assert_ne!(priorities().0, libc::c_long::from(IDLE));
        })
        .join()
        .unwrap();
        assert_eq!(priorities(), here);
    }

    #[test]
    fn a_thread_that_an_idle_one_has_started_need_not_be_idle() {
        std::thread::spawn(|| {
            let _idle = Idle::begin();
            let started = std::thread::spawn(|| {
                let before = priorities().1;
                usual();
                (before, priorities())
            });
            let (before, after) = started.join().unwrap();
            assert_eq!(before, libc::SCHED_IDLE);
            assert_eq!(after.1, libc::SCHED_OTHER);
            assert_ne!(after.0, libc::c_long::from(IDLE));
        })
        .join()
        .unwrap();
    }
}
