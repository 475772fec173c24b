//! What a new inode inherits from its directory's default ACL: posix_acl_create() of the kernel's
//! fs/posix_acl.c, on the values of the `system.posix_acl_*` xattrs.
//!
//! ```text
//! u32 version: 2, then for each entry  u16 tag, u16 permissions, u32 id   (little-endian)
//! ```

use rustix::io::{Errno, Result};

/// The xattr of a directory's default ACL.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";
/// The xattr of an inode's access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry>> {
    let (version, rest) = bytes.split_first_chunk().ok_or(Errno::INVAL)?;
    if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
        return Err(Errno::INVAL);
    }
    let entry = |bytes: &[u8]| Entry {
        tag: u16::from_le_bytes([bytes[0], bytes[1]]),
        permissions: u16::from_le_bytes([bytes[2], bytes[3]]),
        id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    Ok(rest.chunks_exact(8).map(entry).collect())
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        out.extend_from_slice(&entry.tag.to_le_bytes());
        out.extend_from_slice(&entry.permissions.to_le_bytes());
        out.extend_from_slice(&entry.id.to_le_bytes());
    }
    out
}

/// Mode and ACLs of a new inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// 07777 of st_mode.
    pub mode: u32,
    /// The access ACL's xattr; `None` where the mode says it all.
    pub access: Option<Vec<u8>>,
    /// The default ACL's xattr, for a directory.
    pub default: Option<Vec<u8>>,
}

/// What a new inode that is asked for with `mode` (07777) gets in a directory with the default ACL
/// `default`. The umask counts only where there is none.
///
/// # Errors
/// EINVAL for an ACL that the kernel would not have stored.
pub fn inherit(
    default: Option<&[u8]>,
    mode: u32,
    umask: u32,
    is_directory: bool,
) -> Result<Inherited> {
    let Some(default) = default else {
        let mode = mode & !(umask & 0o777);
        return Ok(Inherited {
            mode,
            access: None,
            default: None,
        });
    };
    let mut entries = decode(default)?;
    let (masked, is_more_than_mode) = mask(&mut entries, mode)?;
    Ok(Inherited {
        mode: masked,
        access: is_more_than_mode.then(|| encode(&entries)),
        default: is_directory.then(|| default.to_vec()),
    })
}

/// posix_acl_create_masq(): narrows entries and mode to what both allow; whether the entries say
/// more than the mode.
fn mask(entries: &mut [Entry], mode: u32) -> Result<(u32, bool)> {
    let has_mask = entries.iter().any(|entry| entry.tag == MASK);
    let mut is_more_than_mode = false;
    let mut bits = mode & 0o777;
    let mut group_seen = false;
    for entry in entries {
        let shift = match entry.tag {
            USER_OBJ => 6,
            GROUP_OBJ => {
                group_seen = true;
                if has_mask {
                    continue;
                }
                3
            }
            MASK => {
                is_more_than_mode = true;
                3
            }
            OTHER => 0,
            USER | GROUP => {
                is_more_than_mode = true;
                continue;
            }
            _ => return Err(Errno::INVAL),
        };
        entry.permissions &= (mode >> shift & 0o7) as u16;
        bits &= u32::from(entry.permissions) << shift | !(0o7 << shift);
    }
    if !group_seen && !has_mask {
        return Err(Errno::INVAL);
    }
    Ok((mode & !0o777 | bits, is_more_than_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ID: u32 = u32::MAX;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        };
        encode(&entries.iter().map(entry).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_default_acl_the_umask_counts() {
        let inherited = inherit(None, 0o6777, 0o022, true).unwrap();
        assert_eq!(inherited.mode, 0o6755);
        assert_eq!((inherited.access, inherited.default), (None, None));
    }

    #[test]
    fn a_minimal_default_acl_narrows_the_mode_only() {
        let default = acl(&[
            (USER_OBJ, 7, NO_ID),
            (GROUP_OBJ, 5, NO_ID),
            (OTHER, 0, NO_ID),
        ]);
        let inherited = inherit(Some(&default), 0o1666, 0o077, false).unwrap();
        assert_eq!(inherited.mode, 0o1640);
        assert_eq!((inherited.access, inherited.default), (None, None));
    }

    #[test]
    fn an_extended_one_is_passed_on() {
        let entries = [
            (USER_OBJ, 7, NO_ID),
            (USER, 7, 1000),
            (GROUP_OBJ, 7, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 5, NO_ID),
        ];
        let default = acl(&entries);
        let inherited = inherit(Some(&default), 0o644, 0o077, true).unwrap();
        assert_eq!(inherited.mode, 0o644);
        let access = acl(&[
            (USER_OBJ, 6, NO_ID),
            (USER, 7, 1000),
            (GROUP_OBJ, 7, NO_ID),
            (MASK, 4, NO_ID),
            (OTHER, 4, NO_ID),
        ]);
        assert_eq!(inherited.access, Some(access));
        assert_eq!(inherited.default, Some(default));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0abc"] {
            assert_eq!(inherit(Some(bad), 0o644, 0, false), Err(Errno::INVAL));
        }
        let strange = acl(&[(USER_OBJ, 7, NO_ID), (0x40, 7, NO_ID)]);
        assert_eq!(inherit(Some(&strange), 0o644, 0, false), Err(Errno::INVAL));
    }

    /// The host's kernel is the oracle.
    #[test]
    fn agrees_with_the_kernel() {
        use crate::sys::xattr;
        use std::os::fd::AsFd;
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        for seed in 0..64u16 {
            let perm = |shift: u16| (seed.wrapping_mul(2654) >> shift) & 7;
            let mut entries = vec![(USER_OBJ, perm(0), NO_ID)];
            if seed % 2 == 0 {
                entries.push((USER, perm(1), 1000));
            }
            entries.push((GROUP_OBJ, perm(2), NO_ID));
            if seed % 3 == 0 {
                entries.push((GROUP, perm(3), 100));
            }
            if entries.len() > 2 {
                entries.push((MASK, perm(4), NO_ID));
            }
            entries.push((OTHER, perm(5), NO_ID));
            let default = acl(&entries);
            let flags = rustix::fs::XattrFlags::empty();
            let set = rustix::fs::setxattr(directory.path(), DEFAULT, &default, flags);
            if set == Err(Errno::OPNOTSUPP) {
                return;
            }
            set.unwrap();
            let mode = u32::from(seed.wrapping_mul(40503)) & 0o777;
            let name = format!("f{seed}");
            rustix::fs::mkdirat(&open, &name, mode.into()).unwrap();
            let found = std::fs::metadata(directory.path().join(&name)).unwrap();
            let inherited = inherit(Some(&default), mode, 0, true).unwrap();
            assert_eq!(
                found.permissions().mode() & 0o777,
                inherited.mode,
                "{entries:?}"
            );
            let name = name.as_bytes();
            let access = xattr::get(open.as_fd(), name, ACCESS).unwrap();
            assert_eq!(access, inherited.access, "{entries:?} {mode:o}");
            let passed = xattr::get(open.as_fd(), name, DEFAULT).unwrap();
            assert_eq!(passed, inherited.default);
        }
    }
}
