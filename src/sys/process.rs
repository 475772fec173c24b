//! What /proc tells of descriptors and processes, and what a process becomes.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// The path through which the kernel reaches an open descriptor, O_PATH ones included (proc(5)).
pub fn descriptor_path(file: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes()
}

/// The path of `name` below an open directory: for calls that have no *at form. One component, so
/// no symlink but the last can be met; the caller's call must not follow that one.
pub fn entry_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = descriptor_path(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Lets this process have as many descriptors as the kernel allows (fs.nr_open, proc(5)), or, without
/// CAP_SYS_RESOURCE, as whoever started it has left to it.
///
/// # Errors
/// The limit cannot be set: never, but for a limit above the kernel's.
pub fn raise_descriptor_limit() -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    if let Some(most) = most.ok().and_then(|text| text.trim().parse().ok()) {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return Ok(());
        }
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
}

/// How many descriptors this process may have.
pub fn descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Has no program that this process starts find a descriptor of it, but for standard input and output.
///
/// # Errors
/// Those of close_range(2).
pub fn close_descriptors_on_exec() -> std::io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    // SAFETY: no memory is handed over, and no descriptor is closed before another program runs.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Whether a process has been killed, and cannot end before a FUSE file system answers: all that is left of it are
/// threads in which the kernel waits for a lock that another's request holds, to do what they had written to /dev/fuse.
/// None of them does anything any more (proc_pid_stat(5), proc_pid_syscall(5)).
pub fn waits_for_fuse_only(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    let mut waits = false;
    for thread in threads {
        match thread.map(|thread| left_of(&thread.path())) {
            Ok(Some(true)) => waits = true,
            Ok(Some(false)) => {}
            Ok(None) | Err(_) => return false,
        }
    }
    waits
}

/// Whether a thread of a killed process, as a directory of /proc, waits for FUSE; `Some(false)`: it has ended. `None`: it
/// does something else, or nobody has killed it.
fn left_of(thread: &Path) -> Option<bool> {
    let text = |name: &str| std::fs::read_to_string(thread.join(name)).ok();
    let stat = text("stat")?;
    // A command's name may have any characters.
    let (_, stat) = stat.rsplit_once(") ")?;
    match stat.as_bytes().first()? {
        b'Z' | b'X' => return Some(false),
        b'D' => {}
        _ => return None,
    }
    let status = text("status")?;
    let mut pending = status.lines().filter_map(|it| it.strip_prefix("SigPnd:"));
    let pending = u64::from_str_radix(pending.next()?.trim(), 16).ok()?;
    if pending & 1 << (libc::SIGKILL - 1) == 0 {
        return None;
    }
    let call = text("syscall")?;
    let mut call = call.split_whitespace();
    let number: libc::c_long = call.next()?.parse().ok()?;
    let descriptor = i32::from_str_radix(call.next()?.strip_prefix("0x")?, 16).ok()?;
    let file = std::fs::read_link(thread.join(format!("fd/{descriptor}"))).ok()?;
    let writes = number == libc::SYS_write || number == libc::SYS_writev;
    (writes && file == Path::new("/dev/fuse")).then_some(true)
}

/// Has the process that `command` starts be killed when this thread ends, and that of each program that it becomes
/// (PR_SET_PDEATHSIG(2const)).
pub fn kill_with_this_thread(command: &mut Command) {
    let ask = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec, `ask` makes one system call, and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Becomes another program (fexecve(3)). Returns only if that fails, and then all is as it was: other threads go on,
/// and signals do what they did.
pub fn become_program(
    program: BorrowedFd<'_>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
) -> std::io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let pointers = strings.iter().map(|string| string.as_ptr());
        pointers.chain([std::ptr::null()]).collect()
    };
    let (words, variables) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both are arrays of C strings that end with a null pointer; they and what they point to live until the
    // end of this function.
    unsafe { libc::fexecve(program.as_raw_fd(), words.as_ptr(), variables.as_ptr()) };
    std::io::Error::last_os_error()
}

/// A capability (capabilities(7)), by its bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// CAP_FSETID
    FsetId = 4,
    /// CAP_SYS_ADMIN
    SysAdmin = 21,
}

/// What a thread may do, as far as the kernel leaves it to a file server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Supplementary groups.
    pub groups: Vec<u32>,
    effective: u64,
    our_namespace: bool,
}

impl Credentials {
    /// Whether it has a capability in its user namespace.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective & (1 << capability as u32) != 0
    }

    /// Whether it has a capability in the user namespace of this process.
    pub fn has_in_our_namespace(&self, capability: Capability) -> bool {
        self.our_namespace && self.has(capability)
    }
}

/// The credentials of a thread; `None` for one that is not there, or not visible from here.
pub fn credentials(thread: u32) -> Option<Credentials> {
    if thread == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
    let our_namespace = namespace(&thread.to_string()) == namespace("self");
    parse_status(&status, our_namespace)
}

/// The process of a thread: its id, and the name that it gives itself.
pub fn of_thread(thread: u32) -> Option<(u32, String)> {
    if thread == 0 {
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    let process = process.trim().parse().ok()?;
    let name = std::fs::read(format!("/proc/{process}/comm")).ok()?;
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    Some((process, name.escape_ascii().to_string()))
}

fn parse_status(status: &str, our_namespace: bool) -> Option<Credentials> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let groups = field("Groups:")?.split_ascii_whitespace();
    Some(Credentials {
        groups: groups.map(str::parse).collect::<Result<_, _>>().ok()?,
        effective: u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?,
        our_namespace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_understood() {
        let status = "Name:\tGroups: 1\nGroups:\t4 24 1000 \nCapEff:\t0000000000000010\n";
        let credentials = parse_status(status, false).unwrap();
        assert_eq!(credentials.groups, [4, 24, 1000]);
        assert!(credentials.has(Capability::FsetId));
        assert!(!credentials.has(Capability::SysAdmin));
        assert!(!credentials.has_in_our_namespace(Capability::FsetId));
        assert_eq!(parse_status("Groups:\t\n", true), None);
    }

    #[test]
    fn a_thread_is_in_its_own_namespace() {
        let own = credentials(std::process::id()).unwrap();
        assert!(own.our_namespace);
        assert_eq!(credentials(0), None);
    }
}
