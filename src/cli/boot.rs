//! `foldfs boot`: a guest from an image, in one command.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::session::Session;
use super::{Outcome, mounts, output};
use crate::error::{Context, Error, Result};
use crate::ops::boot::{self, Cache, Machine};
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};

/// Below it, a directory for each guest, with its root and its socket.
const PLACE: &str = "/run/foldfs/boot";
/// How guests need their images: virtiofsd makes files as their users.
const OPTIONS: &str = "suid,dev,allow_other";
/// How long virtiofsd may take to begin, and to end after its guest.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Boot a virtual machine whose root file system is an image
///
/// Kernel and initramfs are those of the image; virtiofsd serves it, QEMU runs it, with KVM where that works. The
/// guest's console is this terminal (Ctrl-A X ends the guest, Ctrl-A H tells more). If the image is not mounted, it is
/// as long as the guest runs.
#[derive(Debug, Args)]
pub struct Boot {
    /// The image
    image: String,
    /// Only print the commands that would be run
    #[arg(long)]
    print: bool,
    /// The guest's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..))]
    memory: u64,
    /// The guest's processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// For how long the guest believes what it knows of its files
    #[arg(long, value_enum, default_value_t = GuestCache::Auto)]
    cache: GuestCache,
    /// Words for the end of the kernel's command line
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        allow_hyphen_values = true
    )]
    append: String,
    /// More arguments for QEMU, as `-nic user`
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    more: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GuestCache {
    /// A second: it sees patches soon
    Auto,
    /// Not at all: it sees patches at once
    Never,
    /// For good: it sees no patch
    Always,
}

/// What `--print --json` prints.
#[derive(Serialize)]
struct Printed {
    report: &'static str,
    commands: Vec<Vec<String>>,
}

impl Boot {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if std::env::consts::ARCH != "x86_64" {
            let cause = "guests of this host's architecture are not known";
            return Err(Error::failed(std::env::consts::ARCH, cause)
                .remedy("run virtiofsd and QEMU yourself, as docs/guests.md says"));
        }
        let qemu = program("qemu-system-x86_64", &[], "Debian's qemu-system-x86")?;
        let places = ["/usr/libexec", "/usr/lib/virtiofsd"];
        let package = "Debian's virtiofsd (from Debian 13 on), or `cargo install virtiofsd`";
        let virtiofsd = program("virtiofsd", &places, package)?;
        let place = Place::take(&self.image)?;
        let root = Root::new(session, &self.image, &place)?;
        let kernel = boot::find(&root.directory)?;
        if let Some(doubt) = &kernel.doubt {
            log::warn!("{doubt}");
        }
        let machine = Machine {
            kvm: has_kvm(&qemu),
            virtiofsd,
            qemu,
            root: root.directory.clone(),
            socket: place.socket(),
            kernel,
            cache: match self.cache {
                GuestCache::Auto => Cache::Auto,
                GuestCache::Never => Cache::Never,
                GuestCache::Always => Cache::Always,
            },
            memory: self.memory,
            cpus: self.cpus,
            append: self.append,
            more: self.more,
        };
        if self.print {
            let commands = root.commands(&machine);
            root.let_go()?;
            print(session, &commands)?;
            return Ok(Outcome::Done);
        }
        let ended = run(&machine, &place);
        let let_go = root.let_go();
        ended?;
        let_go?;
        Ok(Outcome::Done)
    }
}

fn print(session: &Session, commands: &[Vec<OsString>]) -> Result<()> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    if session.json {
        let line = |line: &Vec<OsString>| line.iter().map(text).collect();
        let commands = commands.iter().map(line).collect();
        let report = "boot";
        return output::print_json(&Printed { report, commands });
    }
    let mut shown = String::new();
    for line in commands {
        let words: Vec<String> = line.iter().map(|word| quoted(&text(word))).collect();
        shown.push_str(&words.join(" "));
        // The guest is served in the background.
        let is_server = line
            .iter()
            .any(|word| word == "--inode-file-handles=mandatory");
        shown.push_str(if is_server { " &\n" } else { "\n" });
    }
    output::print(shown.as_bytes())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A program of PATH, or of these directories.
fn program(name: &str, places: &[&str], package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let searched = std::env::split_paths(&path).chain(places.iter().map(PathBuf::from));
    let found = searched.map(|place| place.join(name)).find(|program| {
        rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok() && program.is_file()
    });
    found.ok_or_else(|| {
        Error::failed(name, "there is no such program").remedy(format!("install {package}"))
    })
}

/// Whether KVM works: there are hosts with a /dev/kvm that cannot run a guest, so one is tried.
fn has_kvm(qemu: &Path) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let mut tried = Command::new(qemu);
    tried.args([
        "-M", "q35", "-accel", "kvm", "-cpu", "max", "-m", "64", "-S",
    ]);
    tried.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    tried.args(["-monitor", "stdio"]).stdin(Stdio::piped());
    let tried = tried.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let ended = tried.and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            std::io::Write::write_all(&mut stdin, b"quit\n")?;
        }
        child.wait()
    });
    ended.is_ok_and(|status| status.success())
}

/// A guest's directory, which is this process's alone.
struct Place {
    path: PathBuf,
    #[allow(dead_code, reason = "it is locked as long as it is open")]
    lock: File,
}

impl Place {
    fn take(image: &str) -> Result<Self> {
        let path = Path::new(PLACE).join(image);
        // What is no image's name is none's directory.
        if image.is_empty() || image.starts_with('.') || image.contains('/') {
            let error = Error::failed(format!("image {image:?}"), "there is no such image");
            return Err(error.remedy("`foldfs list` shows all images"));
        }
        let mut made = DirBuilder::new();
        made.recursive(true).mode(0o700);
        made.create(&path).about(path.display())?;
        let lock = File::open(&path).about(path.display())?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, lock }),
            Err(Errno::WOULDBLOCK) => {
                let cause = "a guest was booted from it, or from one of its name, and runs";
                Err(Error::busy(format!("image {image:?}"), cause).remedy("power it off first"))
            }
            Err(error) => Err(error).about(path.display()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.path.join("virtiofs.sock")
    }

    fn log(&self) -> PathBuf {
        self.path.join("virtiofsd.log")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // virtiofsd's lock is called like its socket.
        for file in [
            self.socket(),
            self.path.join("virtiofs.sock.pid"),
            self.log(),
        ] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("{}: {error}", file.display());
                }
                _ => {}
            }
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// Where the image is mounted: by others, or by us as long as the guest runs.
struct Root<'a> {
    session: &'a Session,
    image: &'a str,
    directory: PathBuf,
    is_ours: bool,
}

impl<'a> Root<'a> {
    fn new(session: &'a Session, image: &'a str, place: &Place) -> Result<Self> {
        if let Some(directory) = mounted(session, image)? {
            return Ok(Self {
                session,
                image,
                directory,
                is_ours: false,
            });
        }
        let directory = place.path.join("root");
        fs::create_dir_all(&directory).about(directory.display())?;
        let root = Self {
            session,
            image,
            directory,
            is_ours: true,
        };
        mounts::mount(session, Some(image.to_owned()), &root.directory, OPTIONS)?;
        Ok(root)
    }

    /// What is to be run, in this order.
    fn commands(&self, machine: &Machine) -> Vec<Vec<OsString>> {
        let mut commands = vec![machine.virtiofsd(), machine.qemu()];
        let words = |words: &[&OsStr]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let place = machine.socket.parent().unwrap_or(Path::new(PLACE));
        let store = self.session.store().as_os_str();
        let root = self.directory.as_os_str();
        let foldfs = ["foldfs", "--store"].map(OsStr::new);
        if self.is_ours {
            let mount = [
                OsStr::new("mount"),
                self.image.as_ref(),
                root,
                "-o".as_ref(),
            ];
            let mount = [&foldfs[..], &[store], &mount, &[OPTIONS.as_ref()]].concat();
            commands.insert(0, words(&mount));
            let unmount = [&foldfs[..], &[store, "unmount".as_ref(), root]].concat();
            commands.push(words(&unmount));
        }
        let made = if self.is_ours {
            root
        } else {
            place.as_os_str()
        };
        commands.insert(0, words(&["mkdir".as_ref(), "-p".as_ref(), made]));
        commands
    }

    /// Unmounts what we have mounted.
    fn let_go(mut self) -> Result<()> {
        self.unmount()
    }

    fn unmount(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_ours) {
            return Ok(());
        }
        mounts::unmount(self.session, &self.directory, false)?;
        fs::remove_dir(&self.directory).about(self.directory.display())
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            log::warn!("{error}");
        }
    }
}

fn mounted(session: &Session, image: &str) -> Result<Option<PathBuf>> {
    let call = Call {
        request: Request::List,
        dry_run: false,
    };
    let Report::List(list) = session.perform(&call, &*session.progress())? else {
        return Err(Error::failed(
            "list",
            "the daemon has answered something else",
        ));
    };
    let found = list.images.into_iter().find(|found| found.name == image);
    let found = found.ok_or_else(|| {
        Error::failed(format!("image {image:?}"), "there is no such image")
            .remedy("`foldfs list` shows all images")
    })?;
    let first = found.mounted.first();
    Ok(first.map(|path| path.as_path().to_owned()))
}

/// Runs the guest to its end.
fn run(machine: &Machine, place: &Place) -> Result<()> {
    let signals = Signals::catch()?;
    let log = File::create(place.log()).about(place.log().display())?;
    let line = machine.virtiofsd();
    let mut server = Running::start(&line, |command| {
        command.stdin(Stdio::null()).stderr(log);
    })?;
    let begun = Instant::now();
    while !machine.socket.exists() {
        let ended = server.child.try_wait().about("virtiofsd")?.is_some();
        if ended || begun.elapsed() > PATIENCE {
            let said = fs::read_to_string(place.log()).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it does not listen");
            return Err(Error::failed("virtiofsd", last.to_owned()));
        }
        std::thread::sleep(LOOK);
    }
    let line = machine.qemu();
    let mut guest = Running::start(&line, |_| ())?;
    let status = loop {
        if let Some(status) = guest.child.try_wait().about("QEMU")? {
            break status;
        }
        if signals.is_to_end.swap(false, Ordering::SeqCst) {
            guest.terminate();
        }
        std::thread::sleep(LOOK);
    };
    // It ends with its only client; what the guest has written is with the host then.
    let begun = Instant::now();
    while server.child.try_wait().about("virtiofsd")?.is_none() && begun.elapsed() < PATIENCE {
        std::thread::sleep(LOOK);
    }
    match status.success() {
        true => Ok(()),
        false => Err(Error::failed("QEMU", format!("it failed: {status}"))),
    }
}

/// A child that ends with its guard.
struct Running {
    child: Child,
}

impl Running {
    fn start(line: &[OsString], set: impl FnOnce(&mut Command)) -> Result<Self> {
        let Some((program, arguments)) = line.split_first() else {
            return Err(Error::failed("a command", "it is empty"));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        set(&mut command);
        let child = command.spawn().about(Path::new(program).display())?;
        Ok(Self { child })
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            log::warn!("process {}: {error}", self.child.id());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let begun = Instant::now();
        let mut is_told = false;
        loop {
            match self.child.try_wait() {
                Ok(None) if begun.elapsed() < PATIENCE => {
                    if !std::mem::replace(&mut is_told, true) {
                        self.terminate();
                    }
                    std::thread::sleep(LOOK);
                }
                Ok(Some(_)) | Err(_) => return,
                Ok(None) => break,
            }
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            log::warn!("process {}: {error}", self.child.id());
        }
    }
}

/// Signals end the guest, not this process, which clears away then.
struct Signals {
    ids: Vec<signal_hook::SigId>,
    is_to_end: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> Result<Self> {
        let mut signals = Self {
            ids: Vec::new(),
            is_to_end: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let flag = signals.is_to_end.clone();
            let id = signal_hook::flag::register(signal, flag).about("signals")?;
            signals.ids.push(id);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--cache=auto"), "--cache=auto");
        assert_eq!(quoted("root=rootfs rw"), "'root=rootfs rw'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
