//! The priority of a thread's reads and writes (ioprio_set(2)).

#![allow(unsafe_code)]

use std::marker::PhantomData;

/// IOPRIO_WHO_PROCESS (linux/ioprio.h); with an id of 0 the calling thread.
const WHO_PROCESS: libc::c_int = 1;

/// IOPRIO_CLASS_IDLE.
const IDLE: libc::c_int = 3 << 13;

/// While it lives, the thread that made it reads when nobody else wants the disk, where the disk's
/// scheduler knows priorities. Nothing that others wait for may be done meanwhile.
#[derive(Debug)]
pub struct IdleReads {
    before: libc::c_int,
    /// A priority belongs to a thread.
    _thread: PhantomData<*const ()>,
}

impl IdleReads {
    /// Lowers the priority. What the system does not allow is left as it is: it costs only time.
    pub fn begin() -> Self {
        // SAFETY: ioprio_get takes two integers and touches no memory.
        let before = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        set(IDLE);
        Self {
            before: libc::c_int::try_from(before).unwrap_or(0).max(0),
            _thread: PhantomData,
        }
    }
}

impl Drop for IdleReads {
    fn drop(&mut self) {
        set(self.before);
    }
}

fn set(priority: libc::c_int) {
    // SAFETY: ioprio_set takes three integers and touches no memory.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> libc::c_long {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) }
    }

    #[test]
    fn a_thread_is_idle_for_a_while() {
        std::thread::spawn(|| {
            let idle = IdleReads::begin();
            assert_eq!(priority(), libc::c_long::from(IDLE));
            drop(idle);
            assert_ne!(priority(), libc::c_long::from(IDLE));
        })
        .join()
        .unwrap();
        assert_ne!(priority(), libc::c_long::from(IDLE));
    }
}
