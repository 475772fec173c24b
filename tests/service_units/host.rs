//! A host that systemd runs, in namespaces of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::common::guest;
use super::common::store::{Ran, TestStore, program, run};

const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// The host; all of it is killed with its guard.
#[derive(Debug)]
pub struct Host {
    /// There is one at a time: their control groups are the same.
    _alone: File,
    outside: Child,
    /// systemd, as the process that it is outside.
    first: u32,
    console: PathBuf,
}

impl Host {
    /// Starts one with a store as /var/lib/foldfs, all of foldfs installed, and this in its fstab(5), and waits until
    /// it is up. Nothing where that cannot be.
    #[track_caller]
    pub fn boot(store: &TestStore, tree: &Path, fstab: &str) -> Self {
        let alone = Path::new(env!("CARGO_TARGET_TMPDIR")).join("service_units.lock");
        let alone = File::create(alone).unwrap();
        flock(&alone, FlockOperation::LockExclusive).unwrap();
        let place = store.place.join("host");
        fs::create_dir(&place).unwrap();
        let console = store.place.join("console");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--ipc",
            "--uts",
        ]);
        command.args(["--cgroup", "bash", "-c", include_str!("boot.sh"), "boot"]);
        command.args([tree, &place, &store.path]);
        command.env("PROJECT", env!("CARGO_MANIFEST_DIR"));
        command.env("PROGRAM", program()).env("FSTAB", fstab);
        command.env("VIRTIOFSD", guest::find("virtiofsd").unwrap());
        command.stdin(Stdio::null());
        let log = File::create(&console).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let outside = command.spawn().unwrap();
        let mut host = Self {
            _alone: alone,
            outside,
            first: 0,
            console,
        };
        host.first = host.until("its first process", |host| {
            let pid = host.outside.id();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            let first = children.split_whitespace().next()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
            (name == "systemd\n").then_some(first)
        });
        host.until("it is up", |host| {
            let ran = host.attempt("systemctl is-system-running --wait");
            (ran.text() == "running\n").then_some(())
        });
        host
    }

    /// Runs a script of bash in it.
    pub fn attempt(&self, script: &str) -> Ran {
        let first = self.first.to_string();
        let mut command = Command::new("nsenter");
        command.args([
            "--target", &first, "--mount", "--pid", "--ipc", "--uts", "--cgroup",
        ]);
        command.args(["--root", "--wd", "--", "bash", "-euc", script]);
        command.env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(command.env("FOLDFS_STORE", "/var/lib/foldfs"), b"")
    }

    /// The same, which must end well; what it printed.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let ran = self.attempt(script);
        let failed = format!("{script}\n{}{}\n", ran.text(), ran.stderr);
        assert_eq!(ran.code, 0, "{failed}{}", self.journal());
        ran.text()
    }

    /// A property of a unit (systemctl(1), show).
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let text = self.run(&format!("systemctl show --property={name} --value {unit}"));
        text.trim().to_owned()
    }

    /// Asks until there is an answer.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, ask: impl Fn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            let ended = self.outside.try_wait().unwrap();
            let goes_on = ended.is_none() && begun.elapsed() < PATIENCE;
            assert!(goes_on, "{what}: in vain ({ended:?})\n{}", self.journal());
            thread::sleep(LOOK);
        }
    }

    /// Has it power off.
    #[track_caller]
    pub fn power_off(mut self) {
        self.run("systemctl poweroff");
        let begun = Instant::now();
        while self.outside.try_wait().unwrap().is_none() {
            let patient = begun.elapsed() < PATIENCE;
            assert!(patient, "it does not end\n{}", self.console());
            thread::sleep(LOOK);
        }
    }

    fn console(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn journal(&self) -> String {
        match self.first {
            0 => self.console(),
            _ => self.attempt("journalctl --no-pager --lines=80").text(),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // All others of the namespace end with its first process.
        let killed: io::Result<()> = self.outside.kill().and_then(|()| {
            self.outside.wait()?;
            Ok(())
        });
        // Who has ended has no program any more, whether somebody waits for it or not.
        let program = format!("/proc/{}/exe", self.first);
        let begun = Instant::now();
        while fs::read_link(&program).is_ok() && begun.elapsed() < PATIENCE {
            thread::sleep(LOOK);
        }
        if let Err(error) = killed {
            eprintln!("the host is left: {error}");
        }
    }
}
