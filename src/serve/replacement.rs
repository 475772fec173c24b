//! Another program takes the daemon's place in the same process (execve(2)): `foldfs daemon --upgrade`. Its mounts see
//! what they see when a daemon is killed and the next one takes over, only sooner.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FsWord, Mode, OFlags, fstat, fstatfs, open};
use serde::{Deserialize, Serialize};

use super::service_manager::{descriptors, handing};
use crate::error::{Context, Error, Result};
use crate::store::format_file::FORMAT_VERSION;
use crate::sys::process;

/// The version of what a daemon leaves to the next one: which descriptors under which names, and what is in them.
pub const LEGACY: u32 = 1;

/// The hidden option of `foldfs daemon` that prints [`Abilities`].
pub const OPTION: &str = "--abilities";

/// How long a program may take to say what it can.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// FUSE_SUPER_MAGIC (include/uapi/linux/magic.h).
const FUSE: FsWord = 0x6573_5546;

/// Longest answer, in bytes.
const LONGEST: u64 = 4096;

/// What a program says of itself before it becomes a daemon that another one has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Its version, for messages.
    pub foldfs: String,
    /// The newest format of stores that it knows.
    pub format: i64,
    /// Each [`LEGACY`] that it can take over.
    pub legacies: Vec<u32>,
}

impl Abilities {
    /// This program's.
    pub fn own() -> Self {
        Self {
            foldfs: env!("CARGO_PKG_VERSION").to_owned(),
            format: FORMAT_VERSION,
            legacies: vec![LEGACY],
        }
    }

    /// What keeps such a program from going on with what this one does.
    fn lack(&self) -> Option<String> {
        if self.format < FORMAT_VERSION {
            let known = self.format;
            return Some(format!(
                "it knows stores up to format {known}, this is one of format {FORMAT_VERSION}"
            ));
        }
        (!self.legacies.contains(&LEGACY)).then(|| {
            format!(
                "it cannot take over mounts from foldfs {}",
                env!("CARGO_PKG_VERSION")
            )
        })
    }
}

/// A program that can take this one's place.
#[derive(Debug)]
pub struct Program {
    /// The very file that was looked at.
    file: OwnedFd,
    path: PathBuf,
    /// What it says.
    pub abilities: Abilities,
}

impl Program {
    /// Has it say what it can, with the configuration that it is to have.
    ///
    /// # Errors
    /// It is no program, no foldfs, or one that cannot take over what this one has, or cannot read the configuration.
    pub fn at(path: &Path, configuration: Option<&Path>) -> Result<Self> {
        let refused = |cause: String| {
            Error::failed(path.display(), cause)
                .remedy("nothing has changed: the daemon goes on as it is")
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty()).map_err(|error| refused(error.to_string()))?;
        let kind = fstat(&file).about(path.display())?.st_mode;
        if FileType::from_raw_mode(kind) != FileType::RegularFile {
            return Err(refused(String::from("it is no program")));
        }
        if fstatfs(&file).about(path.display())?.f_type == FUSE {
            let cause = "it lies on a FUSE file system, which may be one that this daemon serves";
            return Err(refused(String::from(cause)));
        }
        let answer = ask(&file, configuration)
            .map_err(|error| refused(format!("it does not run: {error}")))?;
        let abilities: Abilities = serde_json::from_slice(&answer).map_err(|_| {
            let cause = "it does not say that it is a foldfs that can take over mounts";
            refused(String::from(cause))
        })?;
        match abilities.lack() {
            Some(lack) => Err(refused(lack)),
            None => Ok(Self {
                file,
                path: path.into(),
                abilities,
            }),
        }
    }

    /// One that nobody starts.
    #[cfg(test)]
    pub fn of_tests() -> Self {
        Self {
            file: tempfile::tempfile().unwrap().into(),
            path: PathBuf::new(),
            abilities: Abilities::own(),
        }
    }

    /// Becomes it, with the arguments that this process was started with. Returns only if that fails, and then all is as it was.
    pub fn take_over(&self) -> std::io::Error {
        let become_it = |descriptors: &handing::Handing<'_>| {
            let words = std::iter::once(self.path.clone().into_os_string());
            let words = words.chain(std::env::args_os().skip(1));
            let variables = std::env::vars_os().filter(|(name, _)| {
                name != handing::VARIABLE
                    && !descriptors::LISTEN_VARIABLES.iter().any(|it| name == it)
            });
            let handed = (handing::VARIABLE.into(), descriptors.value().into());
            let variables = variables.chain([handed]).map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            });
            let arguments = words.map(|word| CString::new(word.into_vec())).collect();
            let environment = variables
                .map(|pair| CString::new(pair.into_vec()))
                .collect();
            match (arguments, environment) {
                (Ok(arguments), Ok(environment)) => {
                    process::become_program(self.file.as_fd(), arguments, environment)
                }
                (Err(error), _) | (_, Err(error)) => error.into(),
            }
        };
        descriptors::handed_on(become_it).unwrap_or_else(|error| error)
    }
}

/// What a program prints that is asked for its abilities.
fn ask(program: &OwnedFd, configuration: Option<&Path>) -> std::io::Result<Vec<u8>> {
    let path = process::descriptor_path(program.as_fd());
    let mut command = Command::new(std::ffi::OsStr::from_bytes(&path));
    command.arg0("foldfs").args(["daemon", OPTION]);
    if let Some(file) = configuration {
        command.arg("--config").arg(file);
    }
    // It is not the daemon yet.
    for name in ["NOTIFY_SOCKET", handing::VARIABLE] {
        command.env_remove(name);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let status = wait(&mut child)?;
    if !status.success() {
        let said = read(child.stderr.take())?;
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().last().unwrap_or_default();
        let cause = format!("{status}: {said}");
        return Err(std::io::Error::other(
            cause.trim_end_matches(": ").to_owned(),
        ));
    }
    read(child.stdout.take())
}

fn read(pipe: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut said = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LONGEST).read_to_end(&mut said)?;
    }
    Ok(said)
}

fn wait(child: &mut Child) -> std::io::Result<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("program");
        let refused = |cause: &str| {
            let said = Program::at(&path, None).unwrap_err().to_string();
            assert!(
                said.contains(cause) && said.contains("goes on as it is"),
                "{said}"
            );
        };
        refused("No such file");
        std::fs::create_dir(&path).unwrap();
        refused("no program");
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        refused("does not run");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).unwrap();
        refused("does not run");
        std::fs::copy("/bin/false", &path).unwrap();
        refused("does not run: exit status: 1");
        std::fs::copy("/bin/true", &path).unwrap();
        refused("does not say");
    }

    #[test]
    fn an_older_one_is_refused() {
        let own = Abilities::own();
        assert_eq!(own.lack(), None);
        let newer = Abilities {
            format: FORMAT_VERSION + 1,
            legacies: vec![LEGACY, LEGACY + 1],
            ..own.clone()
        };
        assert_eq!(newer.lack(), None);
        let format = FORMAT_VERSION - 1;
        let older = Abilities {
            format,
            ..own.clone()
        };
        assert!(older.lack().unwrap().contains("format"));
        let legacies = vec![LEGACY + 1];
        let other = Abilities { legacies, ..own };
        assert!(other.lack().unwrap().contains("take over"));
    }
}
