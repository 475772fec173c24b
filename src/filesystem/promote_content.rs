//! Promotion of content: a file whose content is an object becomes a private file, because it is
//! about to be altered.
//!
//! ```text
//! 1  change, names    the file gets a stub, where it was shared: nothing of it shows
//! 2  content only     in work/: the object copied, the stub's metadata put on it, synced
//! 3  change, names    metadata again where it changed meanwhile; renamed over the stub, wherever
//!                     that is by now: at a name, in index/ or in orphans/
//! ```
//! `node.content` is held all the time; readers of the file and everything else go on. At each point
//! the view is the one before or the one after, and after a failure it is the one before.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::node::{Backing, Node, OpenFile, Place};
use super::open::ContentGuard;
use crate::store::digest::Digest;
use crate::store::draft::Draft;
use crate::store::guest_xattr;
use crate::store::mark::{Mark, Role, Shown};
use crate::store::metadata::{Metadata, Time};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// What a promoted file takes over from its stub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stub {
    digest: Digest,
    shown: Shown,
    metadata: Metadata,
    atime: Time,
}

impl Filesystem {
    /// Promotes the content of a regular file that has a writer, if it is an object. With a `size`
    /// it gets that size by the same step, and no more of it is copied than remains.
    ///
    /// # Errors
    /// EIO where the object is not as it should be, ENOSPC; the file is as it was then.
    pub(super) fn promote_content(
        &self,
        node: &Arc<Node>,
        content: &ContentGuard<'_>,
        size: Option<u64>,
    ) -> Outcome<Arc<OpenFile>> {
        let promoted = self.promote(node, content, size);
        if let Err(failure) = &promoted
            && self.change.notes().promotion_failed()
        {
            let (image, number) = (self.view.layer.image().0, node.number.get());
            log::warn!(image, number, error:% = failure; "a promotion failed");
        }
        promoted
    }

    fn promote(
        &self,
        node: &Arc<Node>,
        content: &ContentGuard<'_>,
        size: Option<u64>,
    ) -> Outcome<Arc<OpenFile>> {
        let Some(stub) = self.stub_to_promote(node)? else {
            let open = self.open_to_write(node, content)?;
            if let Some(size) = size {
                self.resize(node, content, size)?;
            }
            return Ok(open);
        };
        let object = self.open_to_read(node)?;
        let Backing::Object { size: whole, .. } = object.backing else {
            return Err(Errno::IO.into());
        };
        let (draft, file) = Draft::file(&self.view.layer)?;
        fs::fcntl_setfl(&file, OFlags::NOATIME)?;
        let kept = size.map_or(whole, |size| size.min(whole));
        durable::perform(Step::Write, || match kept == whole {
            true => copy::copy(object.file.as_fd(), file.as_fd(), whole),
            false => copy::copy_start(object.file.as_fd(), file.as_fd(), kept),
        })?;
        let build = Build {
            draft,
            file,
            kept,
            size,
        };
        build.describe(node, &stub)?;
        self.publish(node, build, &stub)
    }

    /// Step 1; `None` if the file is a private one now: content of length 0 has no object.
    fn stub_to_promote(&self, node: &Arc<Node>) -> Outcome<Option<Stub>> {
        let _change = self.change.read();
        let _names = self.names.write();
        let stub = self.stub_of(node)?;
        if stub.is_none() {
            node.state.lock().open = None;
        }
        Ok(stub)
    }

    /// A node's stub, made if it has none. With `names` held for writing.
    fn stub_of(&self, node: &Arc<Node>) -> Outcome<Option<Stub>> {
        self.stub(node)?;
        let (stat, mark) = self.host_inode(node)?;
        let Role::Stub { digest } = mark.role else {
            return Ok(None);
        };
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds,
        };
        let host = self.host(node)?.ok_or(Errno::IO)?;
        let ctime = time(stat.st_ctime, stat.st_ctime_nsec as u32);
        Ok(Some(Stub {
            digest,
            shown: Shown {
                ctime: mark.shown.ctime.or(Some(ctime)),
                mtime: mark.shown.mtime,
            },
            metadata: Metadata {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: time(stat.st_mtime, stat.st_mtime_nsec as u32),
                xattrs: guest_xattr::read_all(host.directory(self), host.name())?,
            },
            atime: time(stat.st_atime, stat.st_atime_nsec as u32),
        }))
    }

    /// Step 3.
    fn publish(&self, node: &Arc<Node>, build: Build<'_>, stub: &Stub) -> Outcome<Arc<OpenFile>> {
        let _change = self.change.read();
        let _names = self.names.write();
        let now = self.stub_of(node)?.ok_or(Errno::IO)?;
        if now.digest != stub.digest {
            return Err(Errno::IO.into());
        }
        if now != *stub {
            build.describe(node, &now)?;
        }
        self.leave_direct_readers(node)?;
        let shown_times = AtomicBool::new(build.size.is_none());
        let host = self.host(node)?.ok_or(Errno::IO)?;
        let (draft, file) = (build.draft, build.file);
        let replace = || {
            let flags = RenameFlags::empty();
            Ok(draft.place(host.directory(self), host.name(), flags)?)
        };
        match node.place() {
            Place::Entry { parent, .. } => self.keep_times(&parent, replace)?,
            Place::Root | Place::Index | Place::Unlinked => replace()?,
        }
        let open = Arc::new(OpenFile {
            file,
            backing: Backing::Writable,
            shown_times,
        });
        node.state.lock().open = Some(open.clone());
        let notes = self.change.notes();
        notes.promoted_files.fetch_add(1, Ordering::Relaxed);
        notes
            .promoted_bytes
            .fetch_add(build.kept, Ordering::Relaxed);
        Ok(open)
    }
}

/// A promoted file in `work/`.
struct Build<'a> {
    draft: Draft<'a>,
    file: OwnedFd,
    /// Bytes that were copied.
    kept: u64,
    /// The size it is to get.
    size: Option<u64>,
}

impl Build<'_> {
    /// Puts on it what the stub has. A rename must not publish content that is not durable; of
    /// metadata the host's journal keeps the order.
    fn describe(&self, node: &Node, stub: &Stub) -> Outcome<()> {
        let mut mark = Mark::new(node.number, Role::File);
        if self.size.is_none() {
            mark.shown = stub.shown;
        }
        self.draft.mark(&mark)?;
        self.draft.describe(&stub.metadata)?;
        let times = Timestamps {
            last_access: timespec(stub.atime),
            last_modification: timespec(stub.metadata.mtime),
        };
        durable::set_times(self.draft.directory(), self.draft.name(), &times)?;
        if let Some(size) = self.size {
            // The guest's change: mtime is now, and the host clears security.capability.
            durable::truncate(&self.file, size)?;
        }
        if self.kept > 0 {
            durable::sync(&self.file)?;
        }
        Ok(())
    }
}

fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
