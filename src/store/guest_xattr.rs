//! A guest's xattrs as the private layer holds them: a name that begins as the mark's does is
//! escaped, so that a guest can neither read nor set a mark (docs/format.md, The private layer).
//! So are the names by which xfs shows its ACLs a second time.

use std::borrow::Cow;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Result;

use super::mark;
use super::metadata::Xattrs;
use crate::sys::{durable, xattr};

/// Stands for the mark's name in an escaped one.
const ESCAPED: &[u8] = b"trusted.foldfs.g";

/// Stands for `trusted` in the name of an xattr that xfs takes for an ACL.
const ESCAPED_ACL: &[u8] = b"trusted.foldfs.h";

/// What xfs lists beside `system.posix_acl_*`: the same ACLs in its own form (fs/xfs/xfs_xattr.c).
const XFS_ACLS: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];

/// Whether this is no xattr that somebody set, but another look at an ACL; cp(1) leaves it out, too
/// (xattr.conf(5)).
pub fn is_acl_of_xfs(name: &[u8]) -> bool {
    XFS_ACLS.contains(&name)
}

/// The host's name of a guest's xattr. It may be two bytes longer: a guest's name of 254 or 255
/// bytes that begins with `trusted.foldfs` is too long (ERANGE).
pub fn escape(name: &[u8]) -> Cow<'_, [u8]> {
    if is_acl_of_xfs(name) {
        return Cow::Owned([ESCAPED_ACL, &name[b"trusted".len()..]].concat());
    }
    match name.strip_prefix(mark::NAME.as_bytes()) {
        Some(rest) => Cow::Owned([ESCAPED, rest].concat()),
        None => Cow::Borrowed(name),
    }
}

/// The inverse of [`escape`]; `None` for a name that is not the guest's.
pub fn unescape(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    if let Some(rest) = name.strip_prefix(ESCAPED) {
        return Some(Cow::Owned([mark::NAME.as_bytes(), rest].concat()));
    }
    if let Some(rest) = name.strip_prefix(ESCAPED_ACL) {
        return Some(Cow::Owned([b"trusted", rest].concat()));
    }
    if is_acl_of_xfs(name) {
        return None;
    }
    (!name.starts_with(mark::NAME.as_bytes())).then_some(Cow::Borrowed(name))
}

/// The guest's xattrs of an entry of the private layer.
pub fn read_all(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for host in xattr::list(directory, name)? {
        let Some(guest) = unescape(&host) else {
            continue;
        };
        if let Some(value) = xattr::get(directory, name, &host)? {
            xattrs.insert(guest.into(), value.into());
        }
    }
    Ok(xattrs)
}

/// Gives an entry of the private layer exactly these xattrs of the guest's.
pub fn replace_all(directory: BorrowedFd<'_>, name: &[u8], xattrs: &Xattrs) -> Result<()> {
    for host in xattr::list(directory, name)? {
        if unescape(&host).is_some_and(|guest| !xattrs.contains_key(&*guest)) {
            durable::remove_xattr(directory, name, &host)?;
        }
    }
    write_all(directory, name, xattrs)
}

/// Adds xattrs of the guest's to an entry of the private layer.
pub fn write_all(directory: BorrowedFd<'_>, name: &[u8], xattrs: &Xattrs) -> Result<()> {
    for (guest, value) in xattrs {
        durable::set_xattr(directory, name, &escape(guest), value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_read_back() {
        for name in [
            "trusted.foldfs",
            "trusted.foldfs.g",
            "trusted.foldfs.g.g",
            "trusted.foldfsx",
            "trusted.foldf",
            "trusted.foldfs.h",
            "trusted.foldfs.h.SGI_ACL_FILE",
            "trusted.SGI_ACL_FILE",
            "trusted.SGI_ACL_DEFAULT",
            "trusted.SGI_ACL",
            "trusted.overlay.opaque",
            "user.trusted.foldfs",
        ] {
            let host = escape(name.as_bytes());
            assert_ne!(&*host, mark::NAME.as_bytes());
            assert!(!is_acl_of_xfs(&host));
            assert_eq!(unescape(&host).as_deref(), Some(name.as_bytes()));
        }
        assert_eq!(unescape(mark::NAME.as_bytes()), None);
        assert_eq!(unescape(b"trusted.SGI_ACL_FILE"), None);
    }
}
