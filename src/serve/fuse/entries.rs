//! Answers that the kernel keeps: of names, and of attributes. Each is told how long it holds before it is
//! looked up (`filesystem::settling`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{
    INodeNo, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, Request,
};

use super::adapter::Adapter;
use super::answer::{GENERATION, answer, empty, entry, kept, kept_name};
use super::convert::{errno, file_attr, file_type, no_attr, number};
use super::resent::made_once;
use crate::filesystem::Filesystem;
use crate::filesystem::attributes::Attributes;
use crate::filesystem::directory::Entry;
use crate::filesystem::failure::Outcome;
use crate::filesystem::transport::flip_of;

impl Adapter {
    pub(super) fn look_up(&self, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answering = self.filesystem.answering();
        let found = match (name.as_bytes(), number(parent)) {
            // For a file handle: the inode itself, or the directory above it.
            (b".", Ok(number)) => self.filesystem.recall(number, flip_of(parent.0)),
            (b"..", Ok(number)) => self.filesystem.recall_parent(number),
            (name, _) => self
                .node(parent)
                .and_then(|parent| self.filesystem.lookup(&parent, name)),
        };
        match found {
            // Nodeid 0: that there is no such name may be believed as long as anything else.
            Err(failure) if failure.errno() == rustix::io::Errno::NOENT => {
                reply.entry(&kept_name(answering.keeps()), &no_attr(), GENERATION);
            }
            found => entry(reply, &answering, found),
        }
    }

    /// Answers with the name that was made at `place`; if the request comes again, and what is there `is_it`, it was made
    /// before.
    pub(super) fn made(
        &self,
        request: &Request,
        reply: ReplyEntry,
        place: (INodeNo, &[u8]),
        is_it: impl FnOnce(&Attributes) -> bool,
        make: impl FnOnce(&Filesystem) -> Outcome<Attributes>,
    ) {
        let answering = self.filesystem.answering();
        let made = make(&self.filesystem);
        let made = made_once(request, &self.filesystem, place, made, is_it);
        let made = self.filesystem.noting_refusal(request.pid(), made);
        entry(reply, &answering, made);
    }

    /// Answers whether something was altered.
    pub(super) fn altered(&self, request: &Request, reply: ReplyEmpty, outcome: Outcome<()>) {
        empty(
            reply,
            self.filesystem.noting_refusal(request.pid(), outcome),
        );
    }

    pub(super) fn get_attributes(&self, nodeid: INodeNo, reply: ReplyAttr) {
        let answering = self.filesystem.answering();
        let attributes = self
            .node(nodeid)
            .and_then(|node| self.filesystem.attributes(&node));
        answer!(reply, attributes, attributes => {
            reply.attr(&kept(&attributes, answering.keeps()), &file_attr(&attributes));
        });
    }

    pub(super) fn list(&self, nodeid: INodeNo, offset: u64, mut reply: ReplyDirectory) {
        let _answering = self.filesystem.answering();
        let read = self.node(nodeid).and_then(|node| {
            self.filesystem.read_directory(&node, offset, &mut |entry| {
                let number = INodeNo(entry.number.get());
                let name = OsStr::from_bytes(entry.name);
                !reply.add(number, entry.cookie, file_type(entry.file_type), name)
            })
        });
        answer!(reply, read, _done => reply.ok());
    }

    pub(super) fn list_plus(&self, nodeid: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus) {
        let answering = self.filesystem.answering();
        let take = &mut |entry: &Entry<'_>, attributes: &Attributes| {
            !reply.add(
                INodeNo(entry.number.get()),
                entry.cookie,
                OsStr::from_bytes(entry.name),
                &kept(attributes, answering.keeps()),
                &file_attr(attributes),
                GENERATION,
            )
        };
        let read = self.node(nodeid);
        let read = read.and_then(|node| self.filesystem.read_directory_plus(&node, offset, take));
        answer!(reply, read, _done => reply.ok());
    }
}
