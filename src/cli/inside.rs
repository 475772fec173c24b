//! The other end of `foldfs upgrade`: what runs first in the namespaces of its command. It makes the
//! file systems that programs expect, goes into the tree, and starts the command.
//!
//! The tree is not trusted more than need be. Nothing in it is looked up through symlinks before it becomes the
//! root (pivot_root(2)); then the host's file systems are gone from the namespace, and of its devices there are
//! those that carry no state. The command is root, but without the capabilities by which it could mount, make
//! devices, or change the host's kernel, clock and network ([`GIVEN_UP`]). It is no container for who means harm:
//! it has the host's users and its network.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use clap::Args;
use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount,
    open_tree, unmount,
};
use rustix::process::{WaitOptions, umask, wait};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::output;
use crate::error::{Context, Result};
use crate::sys::process;

/// Where the host keeps how names are resolved.
const RESOLVER: &str = "/etc/resolv.conf";
/// Where the copy of it lies inside.
const COPY: &str = "foldfs-resolv.conf";

/// Exit code where the command could not be started, as env(1) has it.
const NOT_STARTED: u8 = 126;

/// What programs find in /dev: name, major and minor number of character devices.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Runs a command in a tree; to be started in namespaces of its own
#[derive(Debug, Args)]
pub struct Inside {
    /// The tree
    directory: PathBuf,
    /// The command with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl Inside {
    /// Runs it, as the first process of a PID namespace: it reaps whatever is left behind, and all of it ends
    /// with the command.
    pub fn run(self) -> ExitCode {
        match self.start() {
            Ok(status) => {
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
            }
            Err(error) => {
                output::print_error(&error, false);
                ExitCode::from(NOT_STARTED)
            }
        }
    }

    fn start(&self) -> Result<ExitStatus> {
        let about = self.directory.display();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(&self.directory, flags, Mode::empty()).about(&about)?;
        furnish(root.as_fd())?;
        enter(root.as_fd()).about(&about)?;
        give_up().about("capabilities")?;
        process::close_descriptors_on_exec().about("descriptors")?;
        let Some((program, arguments)) = self.command.split_first() else {
            return Ok(ExitStatus::default());
        };
        let about = Path::new(program).display();
        let kept = std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCHED)
            .envs(kept);
        let child = command.spawn();
        let child = child.about(&about)?.id();
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((ended, status)))
                    if ended.as_raw_nonzero().get().unsigned_abs() == child =>
                {
                    return Ok(ExitStatus::from_raw(status.as_raw()));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).about(&about),
            }
        }
    }
}

/// What of the caller's environment the command finds.
const KEPT: [&str; 5] = ["DEBIAN_FRONTEND", "HOME", "LANG", "LC_ALL", "TERM"];
const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of /proc is about the host's kernel, not about processes.
const OF_THE_KERNEL: [&str; 4] = ["sys", "sysrq-trigger", "irq", "bus"];

/// What the command, and all that comes of it, may never do (capabilities(7)).
const GIVEN_UP: [CapabilitySet; 18] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_TIME,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_TTY_CONFIG,
    CapabilitySet::SYSLOG,
    CapabilitySet::MKNOD,
    CapabilitySet::NET_ADMIN,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::MAC_OVERRIDE,
    CapabilitySet::AUDIT_CONTROL,
    CapabilitySet::WAKE_ALARM,
    CapabilitySet::BLOCK_SUSPEND,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::PERFMON,
    CapabilitySet::BPF,
];

/// Makes the tree the root of all, and lets go of the former one, with all that is mounted there.
fn enter(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Takes capabilities out of the bounding set: no program that is started has them.
fn give_up() -> rustix::io::Result<()> {
    for capability in GIVEN_UP {
        match remove_capability_from_bounding_set(capability) {
            // Of a newer kernel.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Mounts what programs expect: /proc, /sys, /dev, /run and /tmp.
fn furnish(root: BorrowedFd<'_>) -> Result<()> {
    let mask = umask(Mode::empty());
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let proc = plain | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if attach(root, "proc", &made("proc", &[], proc)?)? {
        for name in OF_THE_KERNEL {
            read_only(root, &format!("proc/{name}"))?;
        }
    }
    let sys = proc | MountAttrFlags::MOUNT_ATTR_RDONLY;
    attach(root, "sys", &made("sysfs", &[], sys)?)?;

    let dev = made(
        "tmpfs",
        &[("mode", "755")],
        MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?;
    for (name, major, minor) in DEVICES {
        let device = fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        fs::mknodat(&dev, name, FileType::CharacterDevice, mode, device).about("/dev")?;
    }
    for (name, target) in LINKS {
        fs::symlinkat(target, &dev, name).about("/dev")?;
    }
    fs::mkdirat(&dev, "pts", Mode::from_raw_mode(0o755)).about("/dev")?;
    fs::mkdirat(&dev, "shm", Mode::from_raw_mode(0o1777)).about("/dev")?;
    if attach(root, "dev", &dev)? {
        let options = [("ptmxmode", "666"), ("mode", "620"), ("gid", "5")];
        let terminals = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        attach(root, "dev/pts", &made("devpts", &options, terminals)?)?;
    }
    attach(root, "tmp", &made("tmpfs", &[("mode", "1777")], plain)?)?;
    let run = made("tmpfs", &[("mode", "755")], plain)?;
    if attach(root, "run", &run)? {
        resolve_names(root, run.as_fd())?;
    }
    umask(mask);
    Ok(())
}

/// A file system of its own, which is not mounted anywhere yet.
fn made(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in options {
            fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().about(kind)
}

/// How the tree is looked into before chroot(2).
const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Mounts it on a directory of the tree; false if there is none.
fn attach(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<bool> {
    let about = format!("/{path}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat2(root, path, flags, Mode::empty(), WITHIN) {
        Ok(target) => put(mount.as_fd(), target.as_fd())
            .about(about)
            .map(|()| true),
        Err(error) => {
            log::warn!("the tree has no directory {about}: {error}");
            Ok(false)
        }
    }
}

/// Has nobody write to something that is mounted.
fn read_only(root: BorrowedFd<'_>, path: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(target) = fs::openat2(root, path, flags, Mode::empty(), WITHIN) else {
        return Ok(());
    };
    let about = format!("/{path}");
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(target.as_fd(), "", clone).about(&about)?;
    put(copy.as_fd(), target.as_fd()).about(&about)?;
    let mounted = process::descriptor_path(copy.as_fd());
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(&*mounted, flags | MountFlags::NOEXEC, "").about(about)
}

fn put(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Has programs find what the host knows of how names are resolved: a copy of it, in /run. An
/// /etc/resolv.conf that is a symlink elsewhere, or missing, is left alone.
fn resolve_names(root: BorrowedFd<'_>, run: BorrowedFd<'_>) -> Result<()> {
    let Ok(text) = std::fs::read(RESOLVER) else {
        return Ok(());
    };
    let inside = &RESOLVER[1..];
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match fs::openat2(root, inside, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(target) => target,
        Err(error) => {
            log::warn!("names are not resolved: the tree has no {RESOLVER}: {error}");
            return Ok(());
        }
    };
    let link = fs::readlinkat(&target, "", Vec::new());
    if let Ok(link) = link {
        let link = link.to_string_lossy().into_owned();
        let below = link.strip_prefix("/run/").or(link.strip_prefix("../run/"));
        return match below {
            Some(below) => write_below(run, Path::new(below), &text).about(RESOLVER),
            None => Ok(()),
        };
    }
    if FileType::from_raw_mode(fs::fstat(&target).about(RESOLVER)?.st_mode) != FileType::RegularFile
    {
        return Ok(());
    }
    write_below(run, Path::new(COPY), &text).about(RESOLVER)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(run, COPY, flags).about(RESOLVER)?;
    put(copy.as_fd(), target.as_fd()).about(RESOLVER)
}

/// Writes a file in a file system that nobody else has got to yet.
fn write_below(directory: BorrowedFd<'_>, path: &Path, text: &[u8]) -> rustix::io::Result<()> {
    let mut at = directory.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let names: Vec<_> = path.components().collect();
    let Some((last, above)) = names.split_last() else {
        return Ok(());
    };
    if names
        .iter()
        .any(|name| !matches!(name, Component::Normal(_)))
    {
        return Ok(());
    }
    for name in above {
        let name = name.as_os_str();
        match fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = fs::openat(&at, name, flags, Mode::empty())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = fs::openat(&at, last.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
    match rustix::io::write(&file, text)? {
        written if written == text.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}
