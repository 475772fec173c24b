//! Opening files, and the way of their content that the kernel is told of.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    BackingId, FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyOpen, Request,
};

use super::adapter::Adapter;
use super::answer::{GENERATION, answer, kept_name, set_id_of_caller};
use super::convert::{entry_attr, errno};
use crate::filesystem::create::Permissions;
use crate::filesystem::data::SetId;
use crate::filesystem::open;
use crate::filesystem::passthrough::Way;
use crate::filesystem::transport::{Registered, flip_of};

/// How an open file is told to the kernel.
enum Told {
    Cached(FopenFlags),
    Direct(Arc<BackingId>),
}

/// What the core keeps of a BackingId, which the last reference takes back from the kernel.
fn registered(made: std::io::Result<BackingId>) -> std::io::Result<Registered> {
    Ok(Registered(Arc::new(made?)))
}

fn told(way: Way) -> Told {
    match way {
        Way::Direct(Registered(id)) => match id.downcast() {
            Ok(id) => Told::Direct(id),
            // Only `registered` makes them.
            Err(_) => Told::Cached(FopenFlags::empty()),
        },
        Way::Cached { keep: true } => Told::Cached(FopenFlags::FOPEN_KEEP_CACHE),
        Way::Cached { keep: false } => Told::Cached(FopenFlags::empty()),
    }
}

impl Adapter {
    pub(super) fn open_file(
        &self,
        request: &Request,
        nodeid: INodeNo,
        flags: OpenFlags,
        reply: ReplyOpen,
    ) {
        let flags = open::OpenFlags::from_raw(flags.0, set_id_of_caller(request));
        let thread = request.pid();
        let node = self.node(nodeid);
        let reads = |node| self.filesystem.needs_verification(node);
        let long = matches!(&node, Ok(node) if self.is_long(reads(node)));
        self.run(long, move |filesystem| {
            let opened = node.and_then(|node| {
                let register = |file: BorrowedFd<'_>| registered(reply.open_backing(file));
                filesystem.open_at(&node, flip_of(nodeid.0), flags, &register)
            });
            let opened = filesystem.noting_refusal(thread, opened);
            answer!(reply, opened, opened => {
                let handle = FileHandle(opened.0);
                match told(opened.1) {
                    Told::Cached(flags) => reply.opened(handle, flags),
                    Told::Direct(id) => reply.opened_passthrough(handle, FopenFlags::empty(), &id),
                }
            });
        });
    }

    pub(super) fn create_file(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        permissions: &Permissions,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let answering = self.filesystem.answering();
        let created = self.node(parent).and_then(|parent| {
            let attributes = self
                .filesystem
                .create(&parent, name.as_bytes(), permissions)?;
            let flags = open::OpenFlags::from_raw(flags & !libc::O_TRUNC, SetId::Keep);
            let register = |file: BorrowedFd<'_>| registered(reply.open_backing(file));
            let flip = attributes.identity.flip;
            let opened = self
                .filesystem
                .node(attributes.number)
                .and_then(|node| self.filesystem.open_at(&node, flip, flags, &register));
            if opened.is_err() {
                // The kernel is not told of the file, so it will not forget it either.
                self.filesystem.forget(attributes.number, 1);
            }
            Ok((attributes, opened?))
        });
        let created = self.filesystem.noting_refusal(request.pid(), created);
        answer!(reply, created, created => {
            let (attributes, (handle, way)) = created;
            // It is empty: a mapping that writes comes only after a request that is answered with
            // attributes that the kernel must not keep.
            let (attr, handle) = (entry_attr(&attributes), FileHandle(handle));
            let keep = kept_name(answering.keeps());
            match told(way) {
                Told::Cached(flags) => reply.created(&keep, &attr, GENERATION, handle, flags),
                Told::Direct(id) => {
                    let flags = FopenFlags::empty();
                    reply.created_passthrough(&keep, &attr, GENERATION, handle, flags, &id);
                }
            }
        });
    }
}
