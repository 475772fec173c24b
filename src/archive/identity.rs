//! Which operating system a tree is: what its own files say, never the host's.

use std::os::fd::{AsFd, OwnedFd};

use super::staged::StagedImport;
use crate::error::{Context, Result};
use crate::store::metadata::{Content, SharedInode};
use crate::sys::copy;

/// Symlinks followed in one lookup, as in path_resolution(7).
const SYMLINKS_MAX: u32 = 40;
/// os-release is a few lines; more is not read.
const OS_RELEASE_MAX: usize = 64 << 10;

/// What a family is formed by. Each part is empty where the tree does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// ID of os-release(5), such as `debian`.
    pub os: String,
    /// VERSION_ID of os-release(5), such as `12`.
    pub os_version: String,
    /// Debian's name of the architecture, such as `amd64`, from the ELF header of a program that
    /// every system has.
    pub architecture: String,
}

impl Identity {
    pub(super) fn of(tree: &StagedImport) -> Result<Self> {
        let mut identity = Identity::default();
        for path in ["etc/os-release", "usr/lib/os-release"] {
            if let Some(file) = open(tree, path.as_bytes())? {
                let mut text = vec![0; OS_RELEASE_MAX];
                let length = copy::read_at(file.as_fd(), &mut text, 0).about(path)?;
                (identity.os, identity.os_version) = parse_os_release(&text[..length]);
                break;
            }
        }
        for path in ["bin/sh", "sbin/init", "usr/bin/env", "bin/busybox"] {
            let Some(file) = open(tree, path.as_bytes())? else {
                continue;
            };
            let mut header = [0; 52];
            copy::read_at(file.as_fd(), &mut header, 0).about(path)?;
            if let Some(architecture) = elf_architecture(&header) {
                identity.architecture = architecture.to_owned();
                break;
            }
        }
        Ok(identity)
    }
}

/// Opens a regular file with content, following symlinks within the tree.
fn open(tree: &StagedImport, path: &[u8]) -> Result<Option<OwnedFd>> {
    match resolve(tree, path)?.map(|inode| inode.content) {
        Some(Content::Regular {
            digest: Some(digest),
            ..
        }) => Ok(Some(tree.open_content(&digest)?)),
        _ => Ok(None),
    }
}

/// What a path from the tree's root leads to; an absolute symlink starts from that root again.
fn resolve(tree: &StagedImport, path: &[u8]) -> Result<Option<SharedInode>> {
    let mut todo: Vec<Box<[u8]>> = components(path);
    let mut above = Vec::new();
    let Some(mut current) = tree.inode(tree.root())? else {
        return Ok(None);
    };
    let mut symlinks = 0;
    while let Some(name) = todo.pop() {
        if *name == *b".." {
            if let Some(parent) = above.pop() {
                current = parent;
            }
            continue;
        }
        let Some(next) = tree.lookup(current.number, &name)? else {
            return Ok(None);
        };
        match &next.content {
            Content::Symlink { target } => {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX {
                    return Ok(None);
                }
                if target.starts_with(b"/") && !above.is_empty() {
                    current = above.swap_remove(0);
                    above.clear();
                }
                todo.extend(components(target));
            }
            _ => above.push(std::mem::replace(&mut current, next)),
        }
    }
    Ok(Some(current))
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> Vec<Box<[u8]>> {
    let names = path.split(|&byte| byte == b'/');
    let names = names.filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(Box::from).collect()
}

/// ID and VERSION_ID, quotes and escapes removed (os-release(5)).
fn parse_os_release(text: &[u8]) -> (String, String) {
    let (mut id, mut version) = (String::new(), String::new());
    for line in String::from_utf8_lossy(text).lines() {
        let Some((key, value)) = line.trim().split_once('=') else {
            continue;
        };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|&quote| {
            let inner = value.strip_prefix(quote)?;
            inner.strip_suffix(quote)
        });
        let mut plain = String::new();
        let mut characters = quoted.unwrap_or(value).chars();
        while let Some(character) = characters.next() {
            plain.extend(match character {
                '\\' => characters.next(),
                other => Some(other),
            });
        }
        match key {
            "ID" => id = plain,
            "VERSION_ID" => version = plain,
            _ => {}
        }
    }
    (id, version)
}

/// Debian's name for e_machine, class and byte order of an ELF header (elf(5)).
fn elf_architecture(header: &[u8; 52]) -> Option<&'static str> {
    if header[..4] != *b"\x7fELF" {
        return None;
    }
    let wide = header[4] == 2;
    let little = header[5] == 1;
    let bytes = [header[18], header[19]];
    let machine = if little {
        u16::from_le_bytes(bytes)
    } else {
        u16::from_be_bytes(bytes)
    };
    Some(match (machine, wide, little) {
        (3, ..) => "i386",
        (62, true, _) => "amd64",
        (62, false, _) => "x32",
        (183, ..) => "arm64",
        // EF_ARM_ABI_FLOAT_HARD
        (40, ..) if header[37] & 0x04 != 0 => "armhf",
        (40, ..) => "armel",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (21, _, true) => "ppc64el",
        (21, _, false) => "ppc64",
        (20, ..) => "powerpc",
        (22, true, _) => "s390x",
        (8, true, true) => "mips64el",
        (8, false, true) => "mipsel",
        (8, true, false) => "mips64",
        (8, false, false) => "mips",
        (258, ..) => "loong64",
        (2, ..) => "sparc",
        (43, ..) => "sparc64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_as_distributions_write_it() {
        let text = b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n# ID=no\nID=debian\n";
        assert_eq!(parse_os_release(text), ("debian".into(), "12".into()));
        let text = b"ID='alpine'\nVERSION_ID=3.20\\$x\n";
        assert_eq!(parse_os_release(text), ("alpine".into(), "3.20$x".into()));
        assert_eq!(
            parse_os_release(b"\xff\x00"),
            (String::new(), String::new())
        );
    }

    #[test]
    fn elf_headers() {
        let mut header = [0; 52];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18] = 62;
        assert_eq!(elf_architecture(&header), Some("amd64"));
        header[18] = 183;
        assert_eq!(elf_architecture(&header), Some("arm64"));
        header[5] = 2;
        (header[18], header[19]) = (0, 22);
        assert_eq!(elf_architecture(&header), Some("s390x"));
        header[5] = 1;
        (header[18], header[19], header[37]) = (40, 0, 4);
        assert_eq!(elf_architecture(&header), Some("armhf"));
        header[0] = b'#';
        assert_eq!(elf_architecture(&header), None);
    }
}
