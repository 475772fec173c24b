//! Differences as they are reported.

use std::borrow::Cow;

use super::{Differences, Options};
use crate::merge::compare::{Aspects, Side};
use crate::ops::letter;
use crate::ops::report::{DiffCounts, DiffEntry, DiffReport, DiffSide};
use crate::path_bytes::PathBytes;
use crate::store::metadata::Content;

fn path(path: &[u8]) -> PathBytes {
    [b"/", path].concat().into()
}

fn aspects(aspects: Aspects) -> Vec<Cow<'static, str>> {
    let names = [
        (aspects.file_type, "type"),
        (aspects.content, "content"),
        (aspects.mode, "mode"),
        (aspects.owner, "owner"),
        (aspects.mtime, "mtime"),
        (aspects.xattrs, "xattrs"),
        (aspects.links, "links"),
    ];
    let found = names.into_iter().filter(|(differs, _)| *differs);
    found.map(|(_, name)| name.into()).collect()
}

fn side(side: &Side) -> DiffSide {
    let content = side.content();
    let metadata = side.metadata();
    DiffSide {
        file_type: letter(content.file_type()).into(),
        size: bytes(side),
        digest: match content {
            Content::Regular {
                digest: Some(digest),
                ..
            } => Some(*digest),
            _ => None,
        },
        target: match content {
            Content::Symlink { target } => Some(target.to_vec().into()),
            _ => None,
        },
        device: content.rdev(),
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime.seconds,
        mtime_nanoseconds: metadata.mtime.nanoseconds,
    }
}

/// Of a regular file, else 0.
fn bytes(side: &Side) -> u64 {
    match side.content() {
        Content::Regular { size, .. } => *size,
        _ => 0,
    }
}

/// The report, without text.
pub(in crate::ops) fn report(found: &Differences, options: &Options) -> DiffReport {
    let told = if options.stat { 0 } else { found.all.len() };
    let mut entries = Vec::with_capacity(told);
    let mut equal = true;
    let mut counts = DiffCounts::default();
    for (index, difference) in found.all.iter().enumerate() {
        let moved = found.moves.at(index);
        // A move is told where it ends.
        if moved.is_some_and(|moved| moved.from == index) {
            continue;
        }
        let origin = moved.map(|moved| &found.all[moved.from]);
        let old = origin
            .map_or(&difference.old, |origin| &origin.old)
            .as_ref();
        let new = difference.new.as_ref();
        let differs = moved.map_or(difference.aspects, |moved| moved.aspects);
        let (old_bytes, new_bytes) = (old.map_or(0, bytes), new.map_or(0, bytes));
        let kind = match (old, new) {
            _ if origin.is_some() => {
                counts.moved += 1;
                "moved"
            }
            (Some(_), Some(_)) => {
                counts.altered += 1;
                counts.content += u64::from(differs.content);
                "altered"
            }
            (None, _) => {
                counts.added += 1;
                counts.added_bytes += new_bytes;
                "added"
            }
            (Some(_), None) => {
                counts.removed += 1;
                counts.removed_bytes += old_bytes;
                "removed"
            }
        };
        if differs.content || differs.file_type {
            counts.old_bytes += old_bytes;
            counts.new_bytes += new_bytes;
        }
        equal = false;
        if options.stat {
            continue;
        }
        entries.push(DiffEntry {
            path: path(&difference.path),
            kind: kind.into(),
            from: origin.map(|origin| path(&origin.path)),
            aspects: aspects(differs),
            old: old.map(side),
            new: new.map(side),
            text: None,
        });
    }
    DiffReport {
        old: options.old.clone().into(),
        new: options.new.clone().into(),
        equal,
        counts,
        differences: entries,
        counts_only: options.stat,
    }
}
