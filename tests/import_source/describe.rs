//! Trees as text: two are equal when their descriptions are.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use foldfs::archive::StagedImport;
use foldfs::store::digest::Digest;
use foldfs::store::metadata::{Content, SharedInode, Xattrs};
use foldfs::store::number::Number;

/// Each path with everything that an import keeps of it.
pub type Description = BTreeMap<String, String>;

/// Inodes by their names, to find link groups.
type Groups<K> = BTreeMap<K, Vec<String>>;

fn line(kind: u32, metadata: (u32, u32, u32, i64, i64), content: &str, xattrs: &Xattrs) -> String {
    let (mode, uid, gid, seconds, nanoseconds) = metadata;
    let xattrs: Vec<String> = xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    format!(
        "{kind:o} {mode:04o} {uid}:{gid} {seconds}.{nanoseconds:09} {content} [{}]",
        xattrs.join(", ")
    )
}

fn add_groups<K>(description: &mut Description, groups: Groups<K>) {
    for names in groups.into_values().filter(|names| names.len() > 1) {
        let group = format!(" = {}", names.join(" = "));
        for name in &names {
            description.get_mut(name).unwrap().push_str(&group);
        }
    }
}

/// A directory of this host. Paths up to PATH_MAX only.
pub fn directory(root: &Path) -> Description {
    let mut description = Description::new();
    let mut groups = Groups::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.mode() >> 12;
        let content = match kind {
            0o4 => {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                String::new()
            }
            0o10 => {
                let content = fs::read(&path).unwrap();
                format!("{} {}", content.len(), Digest::of(&content))
            }
            0o12 => {
                let target = fs::read_link(&path).unwrap();
                target
                    .into_os_string()
                    .into_vec()
                    .escape_ascii()
                    .to_string()
            }
            _ => metadata.rdev().to_string(),
        };
        let mut xattrs = Xattrs::new();
        let mut list = vec![0; 65536];
        let length = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        for name in list[..length]
            .split(|&byte| byte == 0)
            // xfs lists ACLs a second time.
            .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_"))
        {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            xattrs.insert(name.into(), value[..length].into());
        }
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let name = relative.escape_ascii().to_string();
        if kind != 0o4 {
            groups.entry(metadata.ino()).or_default().push(name.clone());
        }
        let metadata = (
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        description.insert(name, line(kind, metadata, &content, &xattrs));
    }
    groups.values_mut().for_each(|names| names.sort());
    add_groups(&mut description, groups);
    description
}

/// An import.
pub fn import(import: &StagedImport) -> Description {
    let mut description = Description::new();
    let mut groups: Groups<Number> = Groups::new();
    let root = import.inode(import.root()).unwrap().unwrap();
    let mut todo = vec![(Vec::new(), root)];
    while let Some((path, inode)) = todo.pop() {
        let name = path.escape_ascii().to_string();
        if inode.content == Content::Directory {
            let mut directories = 0;
            for (name, inner) in import.directory(inode.number).unwrap() {
                directories += u32::from(inner.content == Content::Directory);
                let below = match path.is_empty() {
                    true => name.to_vec(),
                    false => [&path[..], &name].join(&b'/'),
                };
                todo.push((below, inner));
            }
            assert_eq!(inode.links, 2 + directories, "links of {name}");
        } else {
            groups.entry(inode.number).or_default().push(name.clone());
            let names = import.names_of(inode.number).unwrap().len();
            assert_eq!(inode.links as usize, names, "links of {name}");
        }
        description.insert(name, inode_line(import, &inode));
    }
    groups.values_mut().for_each(|names| names.sort());
    add_groups(&mut description, groups);
    description
}

fn inode_line(import: &StagedImport, inode: &SharedInode) -> String {
    let content = match &inode.content {
        Content::Directory => String::new(),
        Content::Regular { digest, size } => {
            let mut content = Vec::new();
            if let Some(digest) = digest {
                let mut file = fs::File::from(import.open_content(digest).unwrap());
                file.read_to_end(&mut content).unwrap();
            }
            assert_eq!(content.len() as u64, *size);
            format!("{size} {}", Digest::of(&content))
        }
        Content::Symlink { target } => target.escape_ascii().to_string(),
        other => other.rdev().to_string(),
    };
    let metadata = &inode.metadata;
    line(
        inode.content.file_type().bits() >> 12,
        (
            metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.mtime.seconds,
            metadata.mtime.nanoseconds.into(),
        ),
        &content,
        &metadata.xattrs,
    )
}

/// Fails with the differing lines.
pub fn assert_equal(left: &Description, right: &Description) {
    let differing: Vec<String> = left
        .keys()
        .chain(right.keys())
        .filter(|path| left.get(*path) != right.get(*path))
        .map(|path| format!("{path:?}\n  {:?}\n  {:?}", left.get(path), right.get(path)))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
