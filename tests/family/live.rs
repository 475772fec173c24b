//! Nodes and handles of a live image, by path.

use std::sync::Arc;

use foldfs::filesystem::create::Permissions;
use foldfs::filesystem::data::SetId;
use foldfs::filesystem::node::Node;
use foldfs::filesystem::open::OpenFlags;
use foldfs::filesystem::{Caller, Filesystem};

use super::find;

pub const ROOT: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

pub const WRITE: OpenFlags = OpenFlags {
    write: true,
    truncate: false,
    set_id: SetId::Keep,
    execute: false,
    request: 0,
};

pub fn permissions(mode: u32) -> Permissions {
    Permissions {
        mode,
        umask: 0,
        caller: ROOT,
    }
}

/// The node of a path that exists.
#[track_caller]
pub fn node(fs: &Filesystem, path: &str) -> Arc<Node> {
    find(fs, path).expect(path).0
}

/// Writes to the beginning of a file, which is made if it does not exist.
#[track_caller]
pub fn put(fs: &Filesystem, path: &str, content: &[u8]) -> Arc<Node> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    if find(fs, path).is_none() {
        let above = node(fs, above);
        fs.create(&above, name.as_bytes(), &permissions(0o640))
            .unwrap();
    }
    let file = node(fs, path);
    let handle = fs.open(&file, WRITE).unwrap();
    let written = fs.write(handle, 0, content, SetId::Keep).unwrap();
    assert_eq!(written, content.len());
    fs.release(handle);
    file
}

/// The beginning of what a handle reads.
#[track_caller]
pub fn read(fs: &Filesystem, handle: u64) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = fs.read(handle, 0, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}
