//! What `foldfs boot` prints: commands for a shell, and where copies are.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::Serialize;

use super::super::output;
use super::super::session::Session;
use super::OPTIONS;
use super::place::Place;
use super::root::Root;
use crate::error::Result;
use crate::ops::boot::{Copies, Machine};
use crate::path_bytes::PathBytes;

/// What `--print --json` prints.
#[derive(Serialize)]
struct Printed {
    report: &'static str,
    commands: Vec<Vec<PathBytes>>,
}

/// What `--copy-kernel --json` prints.
#[derive(Serialize)]
struct Copied {
    report: &'static str,
    kernel: PathBytes,
    initramfs: Option<PathBytes>,
}

/// What is to be run, in this order. None of them follows a name in the image out of it.
pub fn commands(
    session: &Session,
    root: &Root<'_>,
    place: &Place,
    machine: &Machine,
) -> Vec<Vec<OsString>> {
    let foldfs = |words: &[&OsStr]| -> Vec<OsString> {
        let store = session.store().as_os_str();
        let before = [OsStr::new("foldfs"), OsStr::new("--store"), store];
        before.iter().chain(words).map(OsString::from).collect()
    };
    let (directory, image) = (root.directory.as_os_str(), OsStr::new(root.image));
    let mut made = ["mkdir", "-p", "-m", "0700"].map(OsString::from).to_vec();
    made.push(place.path.clone().into());
    let mut commands = Vec::new();
    if root.is_ours {
        made.push(directory.into());
        let mount = ["mount".as_ref(), image, directory];
        commands.push(foldfs(
            &[&mount[..], &["-o".as_ref(), OPTIONS.as_ref()]].concat(),
        ));
    }
    commands.insert(0, made);
    let copy = ["boot".as_ref(), image, "--copy-kernel".as_ref()];
    commands.push(foldfs(&[&copy[..], &[place.path.as_os_str()]].concat()));
    commands.extend([machine.virtiofsd(), machine.qemu()]);
    if root.is_ours {
        commands.push(foldfs(&["unmount".as_ref(), directory]));
    }
    commands
}

pub fn print(session: &Session, commands: &[Vec<OsString>]) -> Result<()> {
    if session.json {
        let word = |word: &OsString| PathBytes::from(word.as_bytes());
        let line = |line: &Vec<OsString>| line.iter().map(word).collect();
        return output::print_json(&Printed {
            report: "boot",
            commands: commands.iter().map(line).collect(),
        });
    }
    let mut shown = Vec::new();
    for line in commands {
        let words: Vec<_> = line.iter().map(|word| quoted(word.as_bytes())).collect();
        shown.extend(words.join(&b' '));
        // The guest is served in the background.
        let is_server = line
            .iter()
            .any(|word| word == "--inode-file-handles=mandatory");
        shown.extend_from_slice(if is_server { b" &\n" } else { b"\n" });
    }
    output::print(&shown)
}

pub fn print_copies(session: &Session, copies: Copies) -> Result<()> {
    if session.json {
        return output::print_json(&Copied {
            report: "boot",
            kernel: copies.kernel.into(),
            initramfs: copies.initramfs.map(PathBytes::from),
        });
    }
    let mut shown = Vec::new();
    for path in std::iter::once(copies.kernel).chain(copies.initramfs) {
        shown.extend(path.into_os_string().into_vec());
        shown.push(b'\n');
    }
    output::print(&shown)
}

/// A word as a shell reads it; control characters, and bytes that are no text, as `$'...'` (POSIX 2024), so that a
/// terminal neither obeys nor loses them.
fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=+:,./@%".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    match std::str::from_utf8(word) {
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''")).into_bytes()
        }
        _ => {
            let mut out = b"$'".to_vec();
            for &byte in word {
                match byte {
                    b' '..=b'~' if byte != b'\'' && byte != b'\\' => out.push(byte),
                    _ => out.extend(format!("\\{byte:03o}").into_bytes()),
                }
            }
            out.push(b'\'');
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, shown) in [
            (&b"--cache=auto"[..], &b"--cache=auto"[..]),
            (b"root=rootfs rw", b"'root=rootfs rw'"),
            (b"it's", br"'it'\''s'"),
            (b"", b"''"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }

    #[test]
    fn what_is_no_text_reaches_a_shell_whole() {
        for word in [
            &b"/a\xff'b\\c"[..],
            b"/\xc3\xa4 b",
            b"/\x1b[2J\n",
            b"\xc2\x9b",
        ] {
            let quoted = quoted(word);
            assert!(!quoted.contains(&0x1b) && !quoted.contains(&0xff));
            let line = [b"printf %s ", &quoted[..]].concat();
            let mut shell = std::process::Command::new("bash");
            let ran = shell.arg("-c").arg(OsStr::from_bytes(&line)).output();
            assert_eq!(ran.unwrap().stdout, word);
        }
    }
}
