//! `foldfs boot`: a guest from an image, in one command.

mod place;
mod printed;
mod root;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::place::Place;
use self::root::Root;
use super::Outcome;
use super::session::Session;
use crate::error::{Context, Error, Result};
use crate::ops::boot::{self, Cache, Copies, Machine};

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
    /// Only copy its kernel and initramfs to DIR, as `kernel` and `initramfs`
    #[arg(long, value_name = "DIR", conflicts_with = "print")]
    copy_kernel: Option<PathBuf>,
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

impl Boot {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if std::env::consts::ARCH != "x86_64" {
            let cause = "guests of this host's architecture are not known";
            return Err(Error::failed(std::env::consts::ARCH, cause)
                .remedy("run virtiofsd and QEMU yourself, as docs/guests.md says"));
        }
        // Before anything is there that would have to be cleared away.
        let signals = Signals::catch()?;
        if let Some(directory) = &self.copy_kernel {
            return self.copy_kernel(session, directory);
        }
        let qemu = program("qemu-system-x86_64", &[], "Debian's qemu-system-x86")?;
        let places = ["/usr/libexec", "/usr/lib/virtiofsd"];
        let package = "Debian's virtiofsd (from Debian 13 on), or `cargo install virtiofsd`";
        let virtiofsd = program("virtiofsd", &places, package)?;
        let place = Place::of_guest(&self.image)?;
        let root = Root::new(session, &self.image, &place, OPTIONS)?;
        root.say_what_keeps_guests_from_working()?;
        let kernel = boot::find(&root.directory)?;
        if let Some(doubt) = &kernel.doubt {
            log::warn!("{doubt}");
        }
        let copies = match self.print {
            true => Copies::planned(&kernel, &place.path),
            false => Copies::make(&kernel, &place.path)?,
        };
        // Its open files would keep the image from being unmounted.
        drop(kernel);
        let machine = Machine {
            kvm: has_kvm(&qemu),
            virtiofsd,
            qemu,
            root: root.directory.clone(),
            socket: place.socket(),
            copies,
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
            let commands = printed::commands(session, &root, &place, &machine);
            root.let_go()?;
            printed::print(session, &commands)?;
            return Ok(Outcome::Done);
        }
        let ended = run(&machine, &place, &signals);
        let let_go = root.let_go();
        ended?;
        let_go?;
        Ok(Outcome::Done)
    }

    fn copy_kernel(&self, session: &Session, directory: &Path) -> Result<Outcome> {
        let place = Place::of_kernel(&self.image)?;
        let root = Root::new(session, &self.image, &place, "ro")?;
        let copied = boot::find(&root.directory).and_then(|kernel| {
            let copies = Copies::make(&kernel, directory)?;
            Ok((copies, kernel.doubt))
        });
        root.let_go()?;
        let (copies, doubt) = copied?;
        if let Some(doubt) = doubt {
            log::warn!("{doubt}");
        }
        printed::print_copies(session, copies)?;
        Ok(Outcome::Done)
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

/// Runs the guest to its end.
fn run(machine: &Machine, place: &Place, signals: &Signals) -> Result<()> {
    if signals.is_to_end.load(Ordering::SeqCst) {
        return Ok(());
    }
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
