//! What an applied patch should make of a tree, worked out on snapshots alone: the three-way merge of
//! what was, what is to be, and what an image shows.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test; each file of tests uses its part"
)]

pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use foldfs::ops::patch::{ApplyOptions, OnConflict, Source};
use proptest::prelude::ProptestConfig;

use crate::family::{Seen, Snapshot};

/// Who an inode is, in the merged tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// A file of the image.
    Image(u64),
    /// A file of the new tree.
    New(u64),
}

/// The merged tree, and the paths that the image keeps against the patch.
pub struct Merged {
    tree: BTreeMap<String, (Seen, Origin)>,
    pub conflicts: BTreeSet<String>,
}

fn is_directory(seen: &Seen) -> bool {
    seen.file_type == "Directory"
}

fn parent(path: &str) -> Option<&str> {
    match path {
        "" => None,
        path => Some(path.rsplit_once('/').map_or("", |(above, _)| above)),
    }
}

/// All names of the file at a path.
fn names(tree: &Snapshot, path: &str) -> BTreeSet<String> {
    let number = tree[path].number;
    let same = |(_, seen): &(&String, &Seen)| seen.number == number;
    tree.iter()
        .filter(same)
        .map(|(path, _)| path.clone())
        .collect()
}

/// The source of a change that a patch is.
pub fn source(file: &Path) -> Source {
    Source::Patch {
        file: file.to_owned().into(),
        keys: Vec::new(),
    }
}

/// What makes a change of the whole family "f".
pub fn options(source: Source) -> ApplyOptions {
    ApplyOptions {
        source,
        family: Some("f".into()),
        images: Vec::new(),
        on_conflict: OnConflict::Keep,
        who: "somebody".into(),
        why: "a test".into(),
    }
}

/// How many random cases are tried: PROPTEST_CASES, else so many.
pub fn random(cases: u32) -> ProptestConfig {
    let given = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: given.and_then(|n| n.parse().ok()).unwrap_or(cases),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// All that stat(2), the content and the xattrs say, but numbers, times of the inode and links.
fn plain(seen: &Seen) -> Seen {
    Seen {
        number: 0,
        links: 0,
        ctime: Default::default(),
        ..seen.clone()
    }
}

fn but_mtime(seen: &Seen) -> Seen {
    Seen {
        mtime: Default::default(),
        ..plain(seen)
    }
}

/// Whether two trees have the same version at a path.
fn same(left: &Snapshot, right: &Snapshot, path: &str) -> bool {
    match (left.get(path), right.get(path)) {
        (Some(one), Some(other)) if is_directory(one) => plain(one) == plain(other),
        (Some(one), Some(other)) => {
            plain(one) == plain(other) && names(left, path) == names(right, path)
        }
        (None, None) => true,
        _ => false,
    }
}

/// That two snapshots show the same versions at the same paths, and the same names of one file; which file
/// that is may be another one.
#[track_caller]
pub fn assert_equal(left: &Snapshot, right: &Snapshot, what: &str) {
    let paths = |tree: &Snapshot| tree.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(paths(left), paths(right), "{what}");
    for (path, seen) in left {
        assert_eq!(plain(seen), plain(&right[path]), "{what}: /{path}");
        if !is_directory(seen) {
            assert_eq!(
                names(left, path),
                names(right, path),
                "{what}: names of /{path}"
            );
        }
    }
}

/// Merges.
pub fn merge(old: &Snapshot, new: &Snapshot, image: &Snapshot) -> Merged {
    let mut tree: BTreeMap<String, (Seen, Origin)> = BTreeMap::new();
    for (path, seen) in image {
        tree.insert(path.clone(), (seen.clone(), Origin::Image(seen.number)));
    }
    let mut conflicts = BTreeSet::new();
    let mut wanted: BTreeSet<&String> = BTreeSet::new();
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for path in paths {
        if same(old, new, path) {
            continue;
        }
        let (was, is, has) = (old.get(path), new.get(path), image.get(path));
        if let (Some(is), Some(has)) = (is, has)
            && is_directory(is)
            && is_directory(has)
        {
            let was = was.filter(|was| is_directory(was));
            let (merged, conflict) = directory(was, is, has);
            let origin = Origin::Image(has.number);
            tree.insert(path.clone(), (merged, origin));
            if conflict {
                conflicts.insert(path.clone());
            }
            continue;
        }
        let follows = match (was, has) {
            _ if same(image, new, path) => continue,
            (Some(was), Some(has)) if is_directory(was) => {
                is_directory(has) && but_mtime(was) == but_mtime(has)
            }
            _ => same(image, old, path),
        };
        match follows {
            true => drop(wanted.insert(path)),
            false => drop(conflicts.insert(path.clone())),
        }
    }
    // What is below a directory sorts after it.
    for path in wanted.clone().into_iter().rev() {
        if !image.contains_key(path) {
            continue;
        }
        let below = format!("{path}/");
        match tree.keys().any(|other| other.starts_with(&below)) {
            true => {
                wanted.remove(path);
                conflicts.insert(path.clone());
            }
            false => drop(tree.remove(path)),
        }
    }
    for path in wanted {
        let Some(is) = new.get(path) else {
            continue;
        };
        let above = parent(path).and_then(|above| tree.get(above));
        match above.is_some_and(|(above, _)| is_directory(above)) {
            true => drop(tree.insert(path.clone(), (is.clone(), Origin::New(is.number)))),
            false => drop(conflicts.insert(path.clone())),
        }
    }
    Merged { tree, conflicts }
}

/// A directory that stays one, and whether the image keeps metadata of its own against the patch.
fn directory(was: Option<&Seen>, is: &Seen, has: &Seen) -> (Seen, bool) {
    let Some(was) = was else {
        return (has.clone(), but_mtime(is) != but_mtime(has));
    };
    let mtime = match has.mtime == was.mtime {
        true => is.mtime,
        false => has.mtime,
    };
    let (a, b, c) = (but_mtime(was), but_mtime(is), but_mtime(has));
    let of = |seen: &Seen| Seen {
        mtime,
        ..seen.clone()
    };
    match (a == c, a == b || b == c) {
        (true, _) => (of(is), false),
        (false, true) => (of(has), false),
        (false, false) => (has.clone(), true),
    }
}

impl Merged {
    /// That an image shows this tree: every version, and which names are one file.
    #[track_caller]
    pub fn assert_shown(&self, found: &Snapshot, what: &str) {
        let expected: BTreeSet<&String> = self.tree.keys().collect();
        assert_eq!(found.keys().collect::<BTreeSet<_>>(), expected, "{what}");
        let mut files: BTreeMap<&Origin, u64> = BTreeMap::new();
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for (path, (seen, origin)) in &self.tree {
            let shown = &found[path];
            assert_eq!(plain(shown), plain(seen), "{what}: /{path}");
            let number = *files.entry(origin).or_insert(shown.number);
            assert_eq!(shown.number, number, "{what}: /{path} is another file");
            *counts.entry(shown.number).or_default() += 1;
        }
        assert_eq!(
            files.len(),
            counts.len(),
            "{what}: two files have become one"
        );
        for (path, shown) in found {
            let subdirectories = found
                .iter()
                .filter(|(below, seen)| is_directory(seen) && parent(below) == Some(path.as_str()));
            let links = match is_directory(shown) {
                true => 2 + subdirectories.count() as u32,
                false => counts[&shown.number],
            };
            assert_eq!(shown.links, links, "{what}: links of /{path}");
        }
    }

    /// That what the patch had nothing to do with is the very same: number and ctime too.
    #[track_caller]
    pub fn assert_untouched(&self, before: &Snapshot, after: &Snapshot, what: &str) {
        for (path, (_, origin)) in &self.tree {
            if let (Some(before), Origin::Image(number)) = (before.get(path), origin) {
                let shown = &after[path];
                assert_eq!(shown.number, *number, "{what}: /{path}");
                if !is_directory(before) && before.links == shown.links {
                    assert_eq!(shown.ctime, before.ctime, "{what}: /{path}");
                }
            }
        }
    }
}
