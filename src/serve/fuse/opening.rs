//! Opening files, and the way of their content that the kernel is told of.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use fuser::{FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyOpen, Request};

use super::adapter::Adapter;
use super::answer::{GENERATION, answer, kept_name, set_id_of_caller};
use super::convert::{entry_attr, errno};
use super::resent::{is_new, made_once, number_of};
use crate::filesystem::create::Permissions;
use crate::filesystem::data::SetId;
use crate::filesystem::open;
use crate::filesystem::passthrough::Way;
use crate::filesystem::transport::{Registered, flip_of};
use crate::store::metadata::FileType;
use crate::sys::fuse_device;

/// How an open file is told to the kernel.
enum Told {
    Cached(FopenFlags),
    Direct(Registered),
}

fn told(way: Way) -> Told {
    match way {
        Way::Direct(registered) => Told::Direct(registered),
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
        self.close_unheard_of(request);
        let flags = open::OpenFlags {
            request: number_of(request),
            ..open::OpenFlags::from_raw(flags.0, set_id_of_caller(request))
        };
        let device = self.device.clone();
        let thread = request.pid();
        let node = self.node(nodeid);
        let reads = |node| self.filesystem.needs_verification(node);
        let long = matches!(&node, Ok(node) if self.is_long(reads(node)));
        self.run(long, move |filesystem| {
            let opened = node.and_then(|node| {
                let register = |file: BorrowedFd<'_>| device.register(file);
                filesystem.open_at(&node, flip_of(nodeid.0), flags, &register)
            });
            let opened = filesystem.noting_refusal(thread, opened);
            answer!(reply, opened, opened => {
                let handle = FileHandle(opened.0);
                match told(opened.1) {
                    Told::Cached(flags) => reply.opened(handle, flags),
                    // It stays registered until the kernel has got the answer.
                    Told::Direct(file) => fuse_device::opened(reply, handle, file.id()),
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
        self.close_unheard_of(request);
        let answering = self.filesystem.answering();
        let place = (parent, name.as_bytes());
        let created = self.node(parent).and_then(|parent| {
            let made = self
                .filesystem
                .create(&parent, name.as_bytes(), permissions);
            let is_it = is_new(FileType::Regular);
            let attributes = made_once(request, &self.filesystem, place, made, is_it)?;
            let flags = open::OpenFlags {
                request: number_of(request),
                ..open::OpenFlags::from_raw(flags & !libc::O_TRUNC, SetId::Keep)
            };
            let register = |file: BorrowedFd<'_>| self.device.register(file);
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
                Told::Direct(file) => {
                    fuse_device::created(reply, &keep, &attr, GENERATION, handle, file.id());
                }
            }
        });
    }
}
