//! The command lines that start a guest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Copies;

/// For how long a guest believes what it knows of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// A second: it sees soon what the host, or a patch, changes.
    Auto,
    /// Not at all: it sees that at once.
    Never,
    /// For good: nobody else may change the image.
    Always,
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Cache::Auto => "auto",
            Cache::Never => "never",
            Cache::Always => "always",
        }
    }
}

/// A guest as it is to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    /// virtiofsd's program.
    pub virtiofsd: PathBuf,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// Where the image is mounted.
    pub root: PathBuf,
    /// virtiofsd's socket; it is made.
    pub socket: PathBuf,
    /// What is booted: no files of the image, whose names its guest chooses.
    pub copies: Copies,
    /// virtiofsd's.
    pub cache: Cache,
    /// MiB.
    pub memory: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Whether KVM works; else all is emulated.
    pub kvm: bool,
    /// What comes after our own words on the kernel's command line.
    pub append: String,
    /// More arguments for QEMU.
    pub more: Vec<OsString>,
}

/// The name by which the guest knows its root file system.
const TAG: &str = "rootfs";

impl Machine {
    /// The command that serves the root file system; it ends with the guest.
    pub fn virtiofsd(&self) -> Vec<OsString> {
        let mut line = vec![self.virtiofsd.clone().into_os_string()];
        line.push(option("--socket-path=", &self.socket));
        line.push(option("--shared-dir=", &self.root));
        line.push(format!("--cache={}", self.cache.name()).into());
        // Without handles it would have each inode open that the guest knows; without the capability it could
        // not store trusted xattrs.
        let words = [
            "--sandbox=namespace",
            "--posix-acl",
            "--inode-file-handles=mandatory",
            "--modcaps=+sys_admin",
        ];
        line.extend(words.map(OsString::from));
        line
    }

    /// The command that is the guest; its console is on standard input and output.
    pub fn qemu(&self) -> Vec<OsString> {
        let memory = self.memory;
        let mut line = vec![self.qemu.clone().into_os_string()];
        let mut words = |words: &[&str]| line.extend(words.iter().map(OsString::from));
        let accelerator = if self.kvm { "kvm" } else { "tcg,thread=multi" };
        words(&["-M", "q35", "-accel", accelerator, "-cpu", "max"]);
        words(&["-smp", &self.cpus.to_string(), "-m", &memory.to_string()]);
        words(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        words(&["-display", "none", "-serial", "mon:stdio", "-object"]);
        words(&[&format!(
            "memory-backend-memfd,id=mem,size={memory}M,share=on"
        )]);
        words(&["-machine", "memory-backend=mem"]);
        words(&["-device", "virtio-rng-pci", "-chardev"]);
        line.push(option("socket,id=vfs,path=", &self.socket));
        let device = format!("vhost-user-fs-pci,chardev=vfs,tag={TAG},queue-size=1024");
        line.extend(["-device".into(), device.into()]);
        line.extend(["-kernel".into(), self.copies.kernel.clone().into()]);
        if let Some(initramfs) = &self.copies.initramfs {
            line.extend(["-initrd".into(), initramfs.clone().into()]);
        }
        let mut text = format!("root={TAG} rootfstype=virtiofs rw console=ttyS0");
        if !self.append.is_empty() {
            text.push(' ');
            text.push_str(&self.append);
        }
        line.extend(["-append".into(), text.into()]);
        line.extend(self.more.iter().cloned());
        line
    }
}

fn option(name: &str, value: &Path) -> OsString {
    let mut text = OsString::from(name);
    text.push(value);
    text
}
