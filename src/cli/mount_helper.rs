//! `mount.foldfs`: what mount(8) starts for `mount -t foldfs STORE#IMAGE DIR` and for lines of fstab(5). It is this
//! program, called by that name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser};

use super::arguments::Global;
use super::session::Session;
use super::{log_lines, mounts, output};
use crate::error::{Error, ErrorKind, Result};

/// The name by which it is called.
const NAME: &str = "mount.foldfs";

/// What is meant for mount(8), fstab(5) or systemd.mount(5), or is the default anyway.
const FOR_OTHERS: [&str; 9] = [
    "defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "exec", "async", "relatime",
];

/// What mount(8) leaves unsaid, because it is the default there. The command `foldfs mount` must be asked for it.
const DEFAULTS: [&str; 2] = ["suid", "dev"];

/// Exit codes of mount(8).
const WRONG_USAGE: u8 = 1;
const FAILED: u8 = 32;

/// Mounts an image of a foldfs store, for mount(8)
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Helper {
    /// The store's directory and the image's name
    #[arg(value_name = "STORE#IMAGE")]
    source: OsString,
    /// An existing directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Comma-separated: ro, nosuid, nodev, allow_other, config=FILE; what is meant for mount(8) and fstab(5) is left
    /// out
    #[arg(short, value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Only say whether it is well formed
    #[arg(short)]
    fake: bool,
    /// Leave out options that are not known
    #[arg(short)]
    sloppy: bool,
    /// Say what is mounted
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// Nothing: there is no /etc/mtab to write to
    #[arg(short)]
    no_table: bool,
    /// Nothing: there is one type only
    #[arg(short = 't', value_name = "TYPE")]
    file_system: Option<String>,
}

/// Whether this process was started by that name.
pub fn is_called() -> bool {
    let program = std::env::args_os().next().map(PathBuf::from);
    program.is_some_and(|program| program.file_name() == Some(OsStr::new(NAME)))
}

/// Mounts what mount(8) asks for.
pub fn main() -> ExitCode {
    let helper = match Helper::try_parse() {
        Ok(helper) => helper,
        Err(error) => {
            // Help and the version are no errors, if they can be printed.
            let is_printed = error.print().is_ok();
            let is_wrong = error.use_stderr() || !is_printed;
            return ExitCode::from(if is_wrong { WRONG_USAGE } else { 0 });
        }
    };
    match helper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error, false);
            ExitCode::from(match error.kind {
                ErrorKind::Usage => WRONG_USAGE,
                _ => FAILED,
            })
        }
    }
}

impl Helper {
    fn run(self) -> Result<()> {
        let (store, image) = split(&self.source)?;
        let options = Options::parse(&self.options.join(","), self.sloppy)?;
        let global = Global {
            store: Some(store),
            config: options.config,
            json: false,
            verbose: self.verbose,
            quiet: false,
        };
        log_lines::start(global.log_level());
        let session = Session::new(&global)?;
        if self.fake {
            return Ok(());
        }
        let report = mounts::mount(&session, Some(image), &self.directory, &options.mount)?;
        if self.verbose > 0 {
            session.show(&report, false)?;
        }
        Ok(())
    }
}

/// The store and the image of `STORE#IMAGE`. No image has a "#" in its name; a directory may.
fn split(source: &OsStr) -> Result<(PathBuf, String)> {
    let wrong = |cause: &str| {
        let object = source.to_string_lossy();
        Error::usage(object, cause).remedy("name an image as STORE#IMAGE, as /var/lib/foldfs#web")
    };
    let bytes = source.as_bytes();
    let at = bytes.iter().rposition(|&byte| byte == b'#');
    let at = at.ok_or_else(|| wrong("it names no image"))?;
    let store = PathBuf::from(OsString::from_vec(bytes[..at].to_vec()));
    let image = str::from_utf8(&bytes[at + 1..]).map_err(|_| wrong("no image is called so"))?;
    match (store.is_absolute(), image.is_empty()) {
        (true, false) => Ok((store, image.to_owned())),
        (false, _) => Err(wrong("the store is no absolute path")),
        (_, true) => Err(wrong("it names no image")),
    }
}

/// What `-o` says.
#[derive(Debug, PartialEq, Eq, Default)]
struct Options {
    /// For the mount itself.
    mount: String,
    /// `config=FILE`.
    config: Option<PathBuf>,
}

impl Options {
    fn parse(text: &str, sloppy: bool) -> Result<Self> {
        let mut options = Self::default();
        let mut kept = DEFAULTS.to_vec();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            if let Some(file) = name.strip_prefix("config=") {
                options.config = Some(Path::new(file).to_owned());
                continue;
            }
            let is_left_out = sloppy && mounts::check_options(name).is_err();
            if !is_left_out && !is_for_others(name) {
                kept.push(name);
            }
        }
        options.mount = kept.join(",");
        mounts::check_options(&options.mount)?;
        Ok(options)
    }
}

fn is_for_others(name: &str) -> bool {
    FOR_OTHERS.contains(&name)
        || ["x-", "X-", "comment="]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_store_and_an_image() {
        let of = |text: &str| split(OsStr::new(text));
        assert_eq!(of("/s#web").unwrap(), ("/s".into(), "web".into()));
        assert_eq!(of("/a#b/s#web").unwrap(), ("/a#b/s".into(), "web".into()));
        for wrong in ["/s", "/s#", "s#web", "#web", ""] {
            let error = of(wrong).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage, "{wrong}");
        }
    }

    #[test]
    fn options_for_others_are_left_out() {
        let of = |text: &str| Options::parse(text, false);
        let text = "rw,defaults,_netdev,x-systemd.requires=foldfs@srv.service,nodev,config=/etc/f";
        let options = of(text).unwrap();
        assert_eq!(options.mount, "suid,dev,rw,nodev");
        assert_eq!(options.config, Some("/etc/f".into()));
        assert!(of("rw,fly").unwrap_err().object.contains("fly"));
        assert_eq!(Options::parse("rw,fly", true).unwrap().mount, "suid,dev,rw");
    }
}
