//! A virtual machine whose root file system is a directory of the host, over virtiofs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing that is asked of a guest takes longer: it is emulated, and so may the host's disk be busy.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(20);

/// What booted.
#[derive(Debug, Clone)]
pub struct Parts {
    pub virtiofsd: PathBuf,
    pub qemu: PathBuf,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// A guest at work; it is killed with its guard.
#[derive(Debug)]
pub struct Guest {
    name: String,
    virtiofsd: Child,
    qemu: Child,
    agent: BufReader<UnixStream>,
    console: PathBuf,
}

impl Guest {
    /// Starts a machine with this root, whose sockets and console lie in `place`, and waits for its init script.
    /// `cache` is virtiofsd's.
    #[track_caller]
    pub fn boot(parts: &Parts, place: &Path, name: &str, root: &Path, cache: &str) -> Guest {
        let file = |kind: &str| place.join(format!("{name}.{kind}"));
        let (socket, console) = (file("virtiofs"), file("console"));
        let agent_socket = file("agent");
        for stale in [&socket, &agent_socket] {
            if stale.exists() {
                fs::remove_file(stale).unwrap();
            }
        }
        let mut virtiofsd = Command::new(&parts.virtiofsd);
        virtiofsd.arg("--socket-path").arg(&socket);
        virtiofsd.arg("--shared-dir").arg(root);
        virtiofsd.arg(format!("--cache={cache}"));
        virtiofsd.args(["--sandbox=namespace", "--posix-acl", "--modcaps=+sys_admin"]);
        virtiofsd.arg("--inode-file-handles=mandatory");
        virtiofsd.stderr(File::create(file("virtiofsd.log")).unwrap());
        let mut virtiofsd = Killed(Some(virtiofsd.spawn().unwrap()));
        until("virtiofsd listens", || {
            assert_eq!(virtiofsd.get().try_wait().unwrap(), None, "virtiofsd ended");
            socket.exists().then_some(())
        });

        let listener = UnixListener::bind(&agent_socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut qemu = Command::new(&parts.qemu);
        qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64"]);
        qemu.args(["-smp", "1", "-m", "512M", "-display", "none"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        qemu.args(["-object", "memory-backend-memfd,id=mem,size=512M,share=on"]);
        qemu.args(["-machine", "memory-backend=mem", "-chardev"]);
        qemu.arg(format!("socket,id=vfs,path={}", socket.display()));
        qemu.args([
            "-device",
            "vhost-user-fs-pci,chardev=vfs,tag=rootfs,queue-size=1024",
        ]);
        qemu.arg("-serial")
            .arg(format!("file:{}", console.display()));
        qemu.arg("-chardev");
        qemu.arg(format!("socket,id=agent,path={}", agent_socket.display()));
        qemu.args(["-serial", "chardev:agent", "-kernel"]);
        qemu.arg(&parts.kernel).arg("-initrd").arg(&parts.initramfs);
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
        qemu.stdin(std::process::Stdio::null());
        let mut qemu = Killed(Some(qemu.spawn().unwrap()));
        let agent = until("QEMU starts", || {
            assert_eq!(qemu.get().try_wait().unwrap(), None, "QEMU ended");
            listener.accept().ok()
        });
        let agent = agent.0;
        agent.set_nonblocking(false).unwrap();
        agent.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut guest = Guest {
            name: name.to_owned(),
            virtiofsd: virtiofsd.0.take().unwrap(),
            qemu: qemu.0.take().unwrap(),
            agent: BufReader::new(agent),
            console,
        };
        let (marker, _) = guest.answer();
        assert_eq!(marker, "", "{name}");
        guest
    }

    /// Runs a line of bash, which must end well, and returns what it printed.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> String {
        let (text, code) = self.attempt(line);
        assert_eq!(code, 0, "{}: {line}\n{text}", self.name);
        text
    }

    /// Runs a line of bash, and returns what it printed, and its exit code.
    #[track_caller]
    pub fn attempt(&mut self, line: &str) -> (String, i32) {
        assert!(!line.contains('\n') && line.len() < 4000, "{line}");
        let agent = self.agent.get_mut();
        agent.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.answer()
    }

    /// Asks the same until the answer is as wanted; panics with the last one.
    #[track_caller]
    pub fn until(&mut self, line: &str, wanted: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let (text, _) = self.attempt(line);
            if wanted(&text) {
                return;
            }
            let name = &self.name;
            assert!(begun.elapsed() < PATIENCE, "{name}: {line}\n{text}");
            thread::sleep(LOOK);
        }
    }

    #[track_caller]
    fn answer(&mut self) -> (String, i32) {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.agent.read_until(b'\n', &mut line);
            if !read.is_ok_and(|count| count > 0) {
                let console = fs::read(&self.console).unwrap_or_default();
                let console = String::from_utf8_lossy(&console);
                panic!("{} does not answer\n{text}\nconsole: {console}", self.name);
            }
            let line = String::from_utf8_lossy(&line);
            if let Some((last, code)) = line.split_once("=== end ") {
                text.push_str(last);
                return (text, code.trim().parse().unwrap());
            }
            text.push_str(&line);
        }
    }

    /// How many descriptors virtiofsd has open, all of its processes together.
    pub fn descriptors(&self) -> usize {
        let count = |pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        family(self.virtiofsd.id()).into_iter().map(count).sum()
    }

    /// Has it power off, and waits until all of it has ended, as it should.
    #[track_caller]
    pub fn power_off(mut self) {
        self.agent.get_mut().write_all(b"break\n").unwrap();
        let ended = |child: &mut Child, what: &str| -> ExitStatus {
            until(what, || child.try_wait().unwrap())
        };
        assert!(ended(&mut self.qemu, "QEMU ends").success());
        assert!(ended(&mut self.virtiofsd, "virtiofsd ends").success());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // virtiofsd ends with its only client.
        end(&mut self.qemu, Duration::ZERO);
        end(&mut self.virtiofsd, Duration::from_secs(10));
    }
}

/// A child that is killed where the test fails before a guest has it.
struct Killed(Option<Child>);

impl Killed {
    fn get(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child, Duration::ZERO);
        }
    }
}

/// A process and its descendants, in which it comes last.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let mut found: Vec<u32> = children.flat_map(family).collect();
    found.push(pid);
    found
}

/// Waits for a child, and kills it and its descendants if it goes on.
fn end(child: &mut Child, patience: Duration) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() >= patience {
            for pid in family(child.id()) {
                let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
                let _gone = kill_process(pid, Signal::KILL);
            }
            child.wait().unwrap();
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Waits for something.
#[track_caller]
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not so far");
        thread::sleep(LOOK);
    }
}
