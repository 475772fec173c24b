//! Requests that come a second time: they were under way when the process that served the mount before this one
//! ended (FUSE_NOTIFY_RESEND). What one of them asks for may have been done.
//!
//! Until a request is answered the kernel holds the locks of the directories that it is about, so nobody else has
//! changed what it is about: if there is nothing left to be done it has been done.

use std::sync::Arc;

use fuser::Request;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::adapter::Adapter;
use super::answer::caller;
use crate::filesystem::Filesystem;
use crate::filesystem::attributes::Attributes;
use crate::filesystem::failure::{Failure, Outcome};
use crate::filesystem::ledger::Begun;
use crate::filesystem::node::Node;
use crate::filesystem::rename::Entry as Name;
use crate::filesystem::xattrs::SetXattr;
use crate::store::metadata::FileType;
use crate::store::number::Number;

/// FUSE_UNIQUE_RESEND (include/uapi/linux/fuse.h).
const RESENT: u64 = 1 << 63;

/// The number of a request, which is the same when it comes again.
pub(super) fn number_of(request: &Request) -> u64 {
    request.unique().0 & !RESENT
}

/// Whether a request may have come before.
pub(super) fn is_resent(request: &Request) -> bool {
    request.unique().0 & RESENT != 0
}

/// What came of a request; if it comes again, `done` says that it was carried out the first time.
pub(super) fn once(request: &Request, outcome: Outcome<()>, done: Errno) -> Outcome<()> {
    match outcome {
        Err(failure) if is_resent(request) && failure.errno() == done => Ok(()),
        outcome => outcome,
    }
}

/// Likewise of a name that is made; what it leads to is what was made if `is_it`.
pub(super) fn made_once(
    request: &Request,
    filesystem: &Filesystem,
    (directory, name): (fuser::INodeNo, &[u8]),
    made: Outcome<Attributes>,
    is_it: impl FnOnce(&Attributes) -> bool,
) -> Outcome<Attributes> {
    let exists = matches!(&made, Err(failure) if failure.errno() == Errno::EXIST);
    if !exists || !is_resent(request) {
        return made;
    }
    let directory = super::convert::number(directory).map_err(|_| Errno::STALE)?;
    let directory = filesystem.node(directory)?;
    let found = filesystem.lookup(&directory, name)?;
    if is_it(&found) {
        if found.links > 1 && found.file_type != FileType::Directory {
            return Ok(found);
        }
        // It is new: the kernel has heard of none of its lookups.
        filesystem.forget(found.number, u64::MAX);
        return filesystem.lookup(&directory, name);
    }
    filesystem.forget(found.number, 1);
    Err(Failure::Refused(Errno::EXIST))
}

/// Whether attributes are those of a file that a request made, which asked for this type.
pub(super) fn is_new(file_type: FileType) -> impl FnOnce(&Attributes) -> bool {
    move |found| found.file_type == file_type
}

impl Adapter {
    /// rename(2). Where the old name is there afterwards, too, it cannot be seen from that whether it was carried out.
    pub(super) fn rename_once(
        &self,
        request: &Request,
        old: Name<'_>,
        new: Name<'_>,
        flags: RenameFlags,
    ) -> Outcome<()> {
        let filesystem = &self.filesystem;
        let keeps_old = flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT);
        let at = |name: Name<'_>| -> Outcome<Number> {
            let found = filesystem.lookup(name.parent, name.name)?.number;
            filesystem.forget(found, 1);
            Ok(found)
        };
        if keeps_old && let Some(ledger) = filesystem.ledger() {
            let number = number_of(request);
            let begun = ledger.begun(number).filter(|_| is_resent(request));
            match begun {
                Some(begun) if at(new)? == begun.number => return Ok(()),
                Some(_) => {}
                None => ledger.begin(&Begun {
                    request: number,
                    number: at(old)?,
                }),
            }
        }
        let renamed = filesystem.rename(old, new, flags, caller(request));
        match renamed {
            Err(failure) if is_resent(request) && failure.errno() == Errno::NOENT => {
                // It has gone there; or there never was anything.
                at(new).map(drop)
            }
            renamed => renamed,
        }
    }

    /// setxattr(2).
    pub(super) fn set_xattr_once(
        &self,
        request: &Request,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> Outcome<()> {
        if how == SetXattr::Create && self.is_xattr_changed(request, node, name, false) {
            return Ok(());
        }
        let caller = caller(request);
        self.filesystem.set_xattr(node, name, value, how, &caller)
    }

    /// removexattr(2).
    pub(super) fn remove_xattr_once(
        &self,
        request: &Request,
        node: &Arc<Node>,
        name: &[u8],
    ) -> Outcome<()> {
        if self.is_xattr_changed(request, node, name, true) {
            return Ok(());
        }
        self.filesystem.remove_xattr(node, name)
    }

    /// Whether a request that comes again has made an xattr, or removed it if that has to be there. That it is there,
    /// or is not, does not tell: it may have been so before, and the request is refused.
    fn is_xattr_changed(
        &self,
        request: &Request,
        node: &Arc<Node>,
        name: &[u8],
        has_to_be_there: bool,
    ) -> bool {
        let is_there = match self.filesystem.xattr(node, name) {
            Ok(_) => true,
            Err(failure) if failure.errno() == Errno::NODATA => false,
            // The change fails, too.
            Err(_) => return false,
        };
        let can_be_done = is_there == has_to_be_there;
        if let Some(ledger) = self.filesystem.ledger() {
            let number = number_of(request);
            if is_resent(request) && ledger.begun(number).is_some() {
                return !can_be_done;
            }
            if can_be_done {
                ledger.begin(&Begun {
                    request: number,
                    number: node.number,
                });
            }
        }
        false
    }

    /// Before a file is opened for a request: the kernel has never heard of a handle that it was given for it
    /// before.
    pub(super) fn close_unheard_of(&self, request: &Request) {
        if is_resent(request) {
            self.filesystem.close_unheard_of(number_of(request));
        }
    }
}
