//! What the base of a family was after one of its changes: the later ones are taken back, in thought.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::patch::{PatchEntry, PatchFile, PatchTable, PathVersion};
use crate::archive::{ComparedView, Past};
use crate::error::{Error, Result};
use crate::merge::compare::{Names, Side, Tree, What};
use crate::ops::Context;
use crate::store::catalog::{Change, ChangeReads, Family, Image, Untouched};
use crate::store::metadata::{Content, Metadata};
use crate::store::number::Number;

/// The state of a family's base after a change of this number; 0: before its first one.
///
/// # Errors
/// There is no such change of the family; what it takes is not kept any more; those of reading.
pub(super) fn after(
    context: &Context,
    (family, base): (&Family, &Image),
    now: &mut ComparedView<'_>,
    change: i64,
) -> Result<Past> {
    let catalog = context.store.catalog();
    let changes = catalog.changes_of(family.id)?;
    if change != 0 && !changes.iter().any(|found| found.id == change) {
        return Err(no_change(context, family, change)?);
    }
    let mut later: Vec<&Change> = changes.iter().filter(|found| found.id > change).collect();
    later.reverse();
    if let Some(forgotten) = later.iter().find(|found| !found.is_kept) {
        let name = &family.name;
        let cause = format!("what change {} replaced is not kept any more", forgotten.id);
        return Err(Error::failed(format!("{name}@{change}"), cause).remedy(format!(
            "the oldest state that is kept is {name}@{}; `keep_changes` in the configuration says how many are",
            forgotten.id
        )));
    }
    let mut undoing = Undoing {
        now,
        past: Past::default(),
        files: Number::END,
    };
    for change in later {
        let images = catalog.images_of_change(change.id)?;
        let Some((_, untouched)) = images.into_iter().find(|(image, _)| *image == base.id) else {
            continue;
        };
        let record = PatchFile::open_record(&context.store.change_path(change.id))?;
        undoing.undo(&record, &untouched)?;
    }
    Ok(undoing.past)
}

fn no_change(context: &Context, family: &Family, change: i64) -> Result<Error> {
    let object = format!("{}@{change}", family.name);
    let cause = match context.store.catalog().change(change)? {
        Some(_) => format!("change {change} is of another family"),
        None => String::from("there is no such change"),
    };
    let remedy = format!("`foldfs log {}` shows its changes", family.name);
    Ok(Error::failed(object, cause).remedy(remedy))
}

struct Undoing<'a, 'b> {
    now: &'a mut ComparedView<'b>,
    past: Past,
    /// A number that no file has, for the next one that was there then.
    files: u64,
}

impl Undoing<'_, '_> {
    fn undo(&mut self, record: &PatchTable, untouched: &Untouched) -> Result<()> {
        let mut names: HashMap<usize, usize> = HashMap::new();
        let made = |position: &usize| !untouched.has(*position);
        let first = |position: usize, version: &PathVersion| version.first_name.unwrap_or(position);
        for position in (0..record.entries.len()).filter(made) {
            if let Some(old) = &record.entries[position].old {
                *names.entry(first(position, old)).or_default() += 1;
            }
        }
        let numbers = self.files;
        self.files += record.entries.len() as u64;
        for position in (0..record.entries.len()).filter(made) {
            let entry = &record.entries[position];
            if let Some((made, old)) = both_directories(entry) {
                if let Some(now) = self.at(&entry.path)?.filter(Side::is_directory) {
                    let but_for_mtime = untouched.has_but_for_mtime(position);
                    let metadata = directory_before(made, old, now.metadata(), but_for_mtime);
                    let what = What::Own(Arc::new((Content::Directory, metadata)));
                    self.past.set(&entry.path, Some(Side { what, ..now }));
                }
                continue;
            }
            let side = entry.old.as_ref().map(|old| {
                let first = first(position, old);
                let several = names.get(&first).is_some_and(|names| *names > 1);
                Side {
                    number: numbers + first as u64,
                    several_names: several && old.content != Content::Directory,
                    what: What::Own(Arc::new((old.content.clone(), old.metadata.clone()))),
                }
            });
            self.past.set(&entry.path, side);
        }
        Ok(())
    }

    /// What was at a path after the change that is being undone.
    fn at(&mut self, path: &[u8]) -> Result<Option<Side>> {
        if let Some(told) = self.past.at(path) {
            return Ok(told.cloned());
        }
        if path.is_empty() {
            return self.now.root().map(Some);
        }
        let mut directories: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let name = directories.pop().unwrap_or_default();
        let mut depth = 0;
        for directory in &directories {
            let found = self.named(directory)?;
            if !found.is_some_and(|side| side.is_directory()) {
                break;
            }
            self.now.enter(directory)?;
            depth += 1;
        }
        let found = match depth == directories.len() {
            true => self.named(name)?,
            false => None,
        };
        for _ in 0..depth {
            self.now.leave()?;
        }
        Ok(found)
    }

    /// What is there now, in the directory that the view stands in.
    fn named(&mut self, name: &[u8]) -> Result<Option<Side>> {
        let only = Names::from([name.into()]);
        Ok(self.now.list(Some(&only))?.pop().map(|(_, side)| side))
    }
}

/// Of a directory before and after the change: what the change made of it, and of what.
fn both_directories(entry: &PatchEntry) -> Option<(&Metadata, &Metadata)> {
    let (old, new) = (entry.old.as_ref()?, entry.new.as_ref()?);
    let both = old.content == Content::Directory && new.content == Content::Directory;
    both.then_some((&new.metadata, &old.metadata))
}

/// The rule of a revert: the mtime goes back where it is the one that the change brought, and so does the rest.
fn directory_before(
    made: &Metadata,
    old: &Metadata,
    now: &Metadata,
    but_for_mtime: bool,
) -> Metadata {
    let goes_back = !but_for_mtime && now.equal_but_mtime(made);
    let rest = if goes_back { old } else { now };
    let mtime = match now.mtime == made.mtime {
        true => old.mtime,
        false => now.mtime,
    };
    Metadata {
        mtime,
        ..rest.clone()
    }
}
