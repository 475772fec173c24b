//! Modes, owners, times, xattrs and ACLs.

use rustix::io::Errno;

use super::super::op::{self, Op, Setting, When, XATTRS};
use super::{Body, Id, Model, Modified, Outcome, Result};

/// Tag, permissions and id of each entry, as acl(5) orders them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<(u16, u32, u32)>);

const USER_OWNER: u16 = 1;
const GROUP_OWNER: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;

impl Acl {
    /// From the value of its xattr.
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, entries) = value.split_at_checked(4)?;
        if version != 2u32.to_le_bytes() || entries.len() % 8 != 0 {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let tag = u16::from_le_bytes([bytes[0], bytes[1]]);
            let permissions = u16::from_le_bytes([bytes[2], bytes[3]]);
            let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            (tag, u32::from(permissions), id)
        };
        Some(Acl(entries.chunks(8).map(entry).collect()))
    }

    /// The value of its xattr.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in &self.0 {
            value.extend(tag.to_le_bytes());
            value.extend((*permissions as u16).to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// Says no more than a mode can.
    fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The entry that the group bits of the mode stand for.
    fn group_class(&self) -> u16 {
        let masked = self.0.iter().any(|(tag, _, _)| *tag == MASK);
        if masked { MASK } else { GROUP_OWNER }
    }

    fn permissions(&mut self, tag: u16) -> &mut u32 {
        let entry = self.0.iter_mut().find(|entry| entry.0 == tag);
        &mut entry.expect("a valid ACL has the entry").1
    }

    fn mode(&mut self) -> u32 {
        let group = self.group_class();
        *self.permissions(USER_OWNER) << 6
            | *self.permissions(group) << 3
            | *self.permissions(OTHER)
    }

    fn chmod(&mut self, mode: u32) {
        let group = self.group_class();
        *self.permissions(USER_OWNER) = mode >> 6 & 7;
        *self.permissions(group) = mode >> 3 & 7;
        *self.permissions(OTHER) = mode & 7;
    }

    /// What a new entry gets from this default ACL: its own ACL, if it needs one, and its mode.
    pub(super) fn inherited(&self, mode: u32) -> (Option<Acl>, u32) {
        let mut acl = self.clone();
        let allowed = acl.mode() & mode;
        acl.chmod(allowed);
        let mode = mode & !0o777 | allowed;
        ((!acl.is_minimal()).then_some(acl), mode)
    }
}

impl Model {
    pub(super) fn perform_attributes(&mut self, op: &Op<Vec<u8>>) -> Option<Result<Outcome>> {
        let done = |result: Result<()>| result.map(|()| Outcome::Done);
        Some(match op {
            Op::Chmod { at, mode } => done(self.find(at).map(|id| self.chmod(id, *mode))),
            Op::Fchmod { handle, mode } => {
                let id = self.handle(*handle).id;
                self.chmod(id, *mode);
                Ok(Outcome::Done)
            }
            Op::Chown { at, uid, gid } => done(self.find(at).map(|id| self.chown(id, *uid, *gid))),
            Op::Utimens { at, mtime } => done(self.find(at).map(|id| {
                self.change(id);
                let tick = self.tick;
                let node = self.node(id);
                match mtime {
                    When::Now => node.mtime = Modified::By(tick),
                    When::Omit => {}
                    When::At(s, n) => node.mtime = Modified::At((*s, u64::from(*n))),
                }
            })),
            Op::Access { at, mode } => done(self.find(at).and_then(|id| {
                let node = &self.nodes[&id];
                let executable = self.is_directory(id) || node.mode & 0o111 != 0;
                if mode & 1 != 0 && !executable {
                    Err(Errno::ACCESS)
                } else {
                    Ok(())
                }
            })),
            Op::SetXattr {
                at,
                xattr,
                value,
                how,
            } => {
                let name = xattr_name(*xattr);
                let value = op::xattr_value(name, *value);
                done(
                    self.find(at)
                        .and_then(|id| self.set_xattr(id, name, &value, *how)),
                )
            }
            Op::GetXattr { at, xattr } => {
                let name = xattr_name(*xattr);
                self.find(at)
                    .and_then(|id| self.get_xattr(id, name))
                    .map(Outcome::Bytes)
            }
            Op::RemoveXattr { at, xattr } => {
                let name = xattr_name(*xattr);
                done(self.find(at).and_then(|id| self.remove_xattr(id, name)))
            }
            Op::ListXattr { at } => self.find(at).map(|id| {
                let entry = self.entry(id, super::Depth::Full);
                Outcome::Names(entry.xattrs.into_keys().collect())
            }),
            _ => return None,
        })
    }

    fn chmod(&mut self, id: Id, mode: u32) {
        self.change(id);
        let node = self.node(id);
        node.mode = mode;
        if let Some(acl) = &mut node.acl {
            acl.chmod(mode);
        }
    }

    /// Set-id bits go even when root changes an owner, and even when it stays (chown_common).
    fn chown(&mut self, id: Id, uid: Option<u32>, gid: Option<u32>) {
        self.change(id);
        let is_directory = self.is_directory(id);
        let node = self.node(id);
        node.uid = uid.unwrap_or(node.uid);
        node.gid = gid.unwrap_or(node.gid);
        if !is_directory {
            node.mode &= !0o4000;
            if node.mode & 0o10 != 0 {
                node.mode &= !0o2000;
            }
        }
    }

    fn check_user(&self, id: Id, name: &str, otherwise: Errno) -> Result<()> {
        let allowed = matches!(self.nodes[&id].body, Body::File(_) | Body::Directory(_));
        if name.starts_with("user.") && !allowed {
            Err(otherwise)
        } else {
            Ok(())
        }
    }

    fn set_xattr(&mut self, id: Id, name: &str, value: &[u8], how: Setting) -> Result<()> {
        if name.starts_with("nonsense.") {
            return Err(Errno::OPNOTSUPP);
        }
        if is_acl(name) {
            let acl = Acl::parse(value).ok_or(Errno::OPNOTSUPP)?;
            return self.set_acl(id, name, Some(acl));
        }
        self.check_user(id, name, Errno::PERM)?;
        let tick = self.tick;
        let node = self.node(id);
        let old = node.xattrs.get(name.as_bytes());
        match (how, old) {
            (Setting::Create, Some(_)) => return Err(Errno::EXIST),
            (Setting::Replace, None) => return Err(Errno::NODATA),
            _ => {}
        }
        if old.is_some_and(|old| old == value) {
            // ext4 leaves ctime alone then, xfs and btrfs don't.
            node.ctime_maybe = tick;
        } else {
            node.ctime = tick;
        }
        node.xattrs.insert(name.into(), value.to_vec());
        Ok(())
    }

    fn set_acl(&mut self, id: Id, name: &str, acl: Option<Acl>) -> Result<()> {
        if self.is_symlink(id) {
            return Err(Errno::OPNOTSUPP);
        }
        let tick = self.tick;
        let is_directory = self.is_directory(id);
        let node = self.node(id);
        let before = (node.acl.clone(), node.default_acl.clone(), node.mode);
        if name.ends_with("_default") {
            match acl {
                Some(_) if !is_directory => return Err(Errno::ACCESS),
                acl => node.default_acl = acl,
            }
        } else {
            node.acl = None;
            if let Some(mut acl) = acl {
                node.mode = node.mode & !0o777 | acl.mode();
                node.acl = (!acl.is_minimal()).then_some(acl);
            }
        }
        if before == (node.acl.clone(), node.default_acl.clone(), node.mode) {
            node.ctime_maybe = tick;
        } else {
            node.ctime = tick;
        }
        Ok(())
    }

    fn get_xattr(&self, id: Id, name: &str) -> Result<Vec<u8>> {
        if name.starts_with("nonsense.") || (is_acl(name) && self.is_symlink(id)) {
            return Err(Errno::OPNOTSUPP);
        }
        let entry = self.entry(id, super::Depth::Full);
        entry
            .xattrs
            .get(name.as_bytes())
            .cloned()
            .ok_or(Errno::NODATA)
    }

    fn remove_xattr(&mut self, id: Id, name: &str) -> Result<()> {
        if name.starts_with("nonsense.") {
            return Err(Errno::OPNOTSUPP);
        }
        if is_acl(name) {
            return self.set_acl(id, name, None);
        }
        self.check_user(id, name, Errno::PERM)?;
        if self.node(id).xattrs.remove(name.as_bytes()).is_none() {
            return Err(Errno::NODATA);
        }
        self.change(id);
        Ok(())
    }
}

/// The name that an operation's index stands for.
pub fn xattr_name(index: u8) -> &'static str {
    XATTRS[usize::from(index) % XATTRS.len()]
}

fn is_acl(name: &str) -> bool {
    name.starts_with("system.posix_acl_")
}
