//! The shared layer of one family against itself.

use std::collections::HashMap;

use super::Findings;
use crate::error::Result;
use crate::store::catalog::{Catalog, Family, Reads};
use crate::store::metadata::Content;
use crate::store::number::Number;

const REMEDY: &str = "`foldfs check --repair` restores it from catalog.bak";

#[derive(Default)]
struct Seen {
    is_directory: bool,
    links: u32,
    names: u32,
    subdirectories: u32,
}

pub(super) fn check(catalog: &Catalog, family: &Family, findings: &mut Findings) -> Result<()> {
    let mut inodes: HashMap<Number, Seen> = HashMap::new();
    let row = |number: Number| format!("catalog.db: inode {number}");
    let snapshot = catalog.snapshot()?;
    // Of the same moment: an import may be reserving more.
    let next_number = snapshot.next_number()?;
    let read = snapshot.for_each_inode(family.id, |inode| {
        if inode.number.get() >= next_number {
            findings.add(row(inode.number), "its number was never handed out", REMEDY);
        }
        if let Content::Regular { size, digest } = &inode.content {
            match digest {
                Some(digest) => findings.refer(*digest, *size, &row(inode.number)),
                None if *size > 0 => findings.add(row(inode.number), "no digest", REMEDY),
                None => {}
            }
        }
        let is_directory = inode.content == Content::Directory;
        inodes.insert(
            inode.number,
            Seen {
                is_directory,
                links: inode.links,
                ..Seen::default()
            },
        );
        Ok(())
    });
    if let Err(error) = read {
        findings.add(error.object, error.cause, REMEDY);
    }
    let mut entries: Vec<(Number, Box<[u8]>, Number)> = Vec::new();
    let read = snapshot.for_each_entry(family.id, |parent, name, number| {
        entries.push((parent, name.into(), number));
        Ok(())
    });
    if let Err(error) = read {
        findings.add(error.object, error.cause, REMEDY);
    }
    for (parent, name, number) in &entries {
        findings.report.entries += 1;
        let entry = || format!("catalog.db: entry {} of {parent}", name.escape_ascii());
        if name.is_empty()
            || name.len() > 255
            || name.contains(&b'/')
            || **name == *b"."
            || **name == *b".."
        {
            findings.add(entry(), "not a name", REMEDY);
        }
        let Some(child) = inodes.get_mut(number) else {
            findings.add(entry(), format!("there is no inode {number}"), REMEDY);
            continue;
        };
        child.names += 1;
        if child.is_directory
            && let Some(parent) = inodes.get_mut(parent)
        {
            parent.subdirectories += 1;
        }
    }
    match inodes.get(&family.root) {
        Some(root) if root.is_directory && root.names == 0 => {}
        _ => findings.add(
            row(family.root),
            "it is not the root of the shared layer",
            REMEDY,
        ),
    }
    for (number, seen) in &inodes {
        if *number != family.root && seen.names == 0 {
            findings.add(row(*number), "no name leads to it", REMEDY);
        }
        if seen.is_directory && seen.names > 1 {
            findings.add(row(*number), "a directory with several names", REMEDY);
        }
        let links = if seen.is_directory {
            2 + seen.subdirectories
        } else {
            seen.names
        };
        if links != seen.links && seen.names > 0 {
            let cause = format!("it has {links} links, the row says {}", seen.links);
            findings.add(row(*number), cause, REMEDY);
        }
    }
    Ok(())
}
