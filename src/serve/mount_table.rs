//! The mounts of this machine (proc_pid_mountinfo(5)), and those among them that are ours.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// The type that mount(8) and findmnt(8) show for a view.
pub const FILE_SYSTEM_TYPE: &str = "fuse.foldfs";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// The file system's device, as `major:minor`: a bind mount has the same.
    pub device: Vec<u8>,
    /// Its file system's type.
    pub file_system: Vec<u8>,
    /// What it says it shows: `STORE#IMAGE` for a view.
    pub source: Vec<u8>,
    /// Its own options, and its file system's.
    pub options: [Vec<u8>; 2],
}

impl Mount {
    /// Whether it has this option.
    pub fn has(&self, option: &str) -> bool {
        let mut all = self
            .options
            .iter()
            .flat_map(|some| some.split(|&byte| byte == b','));
        all.any(|has| has == option.as_bytes())
    }
}

/// What a view's mount says it shows.
pub fn source_of(store: &Path, image: &str) -> OsString {
    let mut source = store.as_os_str().to_owned();
    source.push("#");
    source.push(image);
    source
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// /proc is not there.
pub fn mounts() -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    Ok(parse(&std::fs::read(path).about(path)?))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    let own = fields.next()?.to_vec();
    // Any number of optional fields, then "-".
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        point: OsString::from_vec(unescape(point)).into(),
        device: device.to_vec(),
        file_system: unescape(rest.next()?),
        source: unescape(rest.next()?),
        options: [own, rest.next().unwrap_or_default().to_vec()],
    })
}

/// Undoes the kernel's `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_manual_page() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402\\134 rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:50 / /m rw,nosuid - fuse.foldfs /var/lib/foldfs#web rw,user_id=0\n\
            nonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt 2\\"));
        assert_eq!(mounts[0].source, b"/dev/root");
        assert_eq!(mounts[1].file_system, FILE_SYSTEM_TYPE.as_bytes());
        let source = source_of(Path::new("/var/lib/foldfs"), "web");
        assert_eq!(mounts[1].source, source.as_encoded_bytes());
        let has = |option| {
            mounts
                .iter()
                .map(|mount| mount.has(option))
                .collect::<Vec<_>>()
        };
        assert_eq!(has("noatime"), [true, false]);
        assert_eq!(has("nosuid"), [false, true]);
        assert_eq!(has("user_id=0"), [false, true]);
        assert_eq!(has("ro"), [false, false]);
    }

    #[test]
    fn this_machine_has_mounts() {
        let root = mounts().unwrap();
        assert!(root.iter().any(|mount| mount.point == Path::new("/")));
    }
}
