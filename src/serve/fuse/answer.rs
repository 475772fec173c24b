//! What requests say of their caller, and how outcomes become answers.

use std::time::Duration;

use fuser::{Errno, Generation, ReplyEmpty, ReplyEntry, ReplyXattr, Request, WriteFlags};

use super::convert::{entry_attr, errno};
use crate::filesystem::Caller;
use crate::filesystem::attributes::Attributes;
use crate::filesystem::create::Permissions;
use crate::filesystem::data::SetId;
use crate::filesystem::failure::Outcome;
use crate::filesystem::settling::Answering;

/// How long the kernel may believe entries and attributes: only it and we can change them, and what
/// the background changes it is told of.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// Numbers are never used again, so one generation will do.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn permissions(request: &Request, mode: u32, umask: u32) -> Permissions {
    Permissions {
        mode: mode & 0o7777,
        umask,
        caller: caller(request),
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

/// Answers with the value, or the error.
macro_rules! answer {
    ($reply:ident, $outcome:expr, $value:ident => $answer:expr) => {
        match $outcome {
            Ok($value) => $answer,
            Err(failure) => $reply.error(errno(&failure)),
        }
    };
}
pub(super) use answer;

/// How long the kernel may believe attributes.
pub(super) fn kept(attributes: &Attributes, keeps: bool) -> Duration {
    kept_name(keeps && !attributes.identity.volatile)
}

/// How long the kernel may believe what a name leads to.
pub(super) fn kept_name(keeps: bool) -> Duration {
    match keeps {
        true => FOREVER,
        false => Duration::ZERO,
    }
}

pub(super) fn entry(reply: ReplyEntry, answering: &Answering<'_>, outcome: Outcome<Attributes>) {
    let keeps = answering.keeps();
    answer!(reply, outcome, attributes => {
        let (attribute_ttl, entry_ttl) = (kept(&attributes, keeps), kept_name(keeps));
        let attr = entry_attr(&attributes);
        reply.entry_with_ttls(&attribute_ttl, &entry_ttl, &attr, GENERATION);
    });
}

/// FUSE_WRITE_KILL_SUIDGID: the writer lacks CAP_FSETID. Pages of a mapping come without.
pub(super) fn set_id_of_write(request: &Request, flags: WriteFlags) -> SetId {
    if flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
        set_id_of_caller(request)
    } else {
        SetId::Keep
    }
}

/// For requests that say nothing of it (fuser 0.18 keeps the flag to itself).
pub(super) fn set_id_of_caller(request: &Request) -> SetId {
    SetId::ClearFor(caller(request))
}

pub(super) fn empty(reply: ReplyEmpty, outcome: Outcome<()>) {
    answer!(reply, outcome, _done => reply.ok());
}

/// Xattr calls ask for the size first, then for the value.
pub(super) fn xattr(reply: ReplyXattr, size: u32, outcome: Outcome<Vec<u8>>) {
    answer!(reply, outcome, value => {
        if size == 0 {
            reply.size(value.len() as u32);
        } else if value.len() > size as usize {
            reply.error(Errno::ERANGE);
        } else {
            reply.data(&value);
        }
    });
}
