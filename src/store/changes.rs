//! `changes/`: the patch of each change of a family, and what of a change that was committed is still to
//! be done in an image.
//!
//! ```text
//! STORE/changes/ID          the record of change ID (docs/patch-format.md)
//! STORE/changes/ID-IMAGE    what image IMAGE still lacks of it (ops::patch::steps); counts once the
//!                           catalog has the change
//! STORE/changes/ID-IMAGE.done    it lacks nothing any more, which may not be on the disk yet
//! ```
//! Made by the first change. The first two are on the disk before the change is committed.
//!
//! A guest may go on as soon as its image lacks nothing, long before that is on the disk. What it does then
//! must not be taken for what the image lacked. Hence the rename to `.done`, before the guest goes on: after
//! a crash of this process it is there, and after a power loss it is there if what the guest did is, as a
//! host's file system keeps the order of what is done to names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::catalog::ChangeReads;
use super::layer;
use super::layout;
use super::number::ImageId;
use super::open::Store;
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::sys::durable::{self, Step};
use crate::sys::{copy, regular};

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What an image lacks of a change has no more bytes.
const MOST_STEPS: u64 = 1 << 30;

/// The name of what an image lacks of a change.
fn steps_name(change: i64, image: ImageId) -> String {
    format!("{change}-{image}")
}

fn done_name(change: i64, image: ImageId) -> String {
    format!("{change}-{image}.done")
}

/// The inverse of [`done_name`]; `None` for other names.
fn parse_done(name: &[u8]) -> Option<(i64, ImageId)> {
    parse_steps(name.strip_suffix(b".done")?)
}

/// The inverse of [`steps_name`]; `None` for other names.
fn parse_steps(name: &[u8]) -> Option<(i64, ImageId)> {
    let (change, image) = std::str::from_utf8(name).ok()?.split_once('-')?;
    Some((change.parse().ok()?, ImageId(image.parse().ok()?)))
}

impl Store {
    fn changes(&self) -> Result<Option<OwnedFd>> {
        let flags = READ | OFlags::DIRECTORY;
        match fs::openat(self.root(), layout::CHANGES, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => Err(Error::failed(layout::CHANGES, "it is no directory").remedy(
                "move it elsewhere, and restore the directory from another copy of the store",
            )),
            opened => opened.map(Some).about(layout::CHANGES),
        }
    }

    /// Where a change's record lies.
    pub fn change_path(&self, change: i64) -> std::path::PathBuf {
        let directory = self.path().join(layout::CHANGES);
        directory.join(change.to_string())
    }

    /// Keeps a change that is about to be committed: its record, and what it means for each image. On
    /// the disk after the next sync.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn keep_change(
        &self,
        change: i64,
        record: &[u8],
        steps: &[(ImageId, Vec<u8>)],
    ) -> Result<()> {
        match durable::mkdir(self.root(), layout::CHANGES.as_bytes(), 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).about(layout::CHANGES),
        }
        let Some(directory) = self.changes()? else {
            return Err(Errno::NOENT).about(layout::CHANGES);
        };
        self.drop_uncommitted()?;
        self.keep_file(&directory, &change.to_string(), |file| {
            copy::write_all_at(file, record, 0)
        })?;
        for (image, bytes) in steps {
            self.keep_steps(change, *image, bytes)?;
        }
        Ok(())
    }

    /// Keeps what a change that is not committed yet means for an image; replaces what was kept of it.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn keep_steps(&self, change: i64, image: ImageId, bytes: &[u8]) -> Result<()> {
        let Some(directory) = self.changes()? else {
            return Err(Errno::NOENT).about(layout::CHANGES);
        };
        let name = steps_name(change, image);
        match durable::unlink(&directory, name.as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).about(format!("{}/{name}", layout::CHANGES)),
        }
        self.keep_file(&directory, &name, |file| copy::write_all_at(file, bytes, 0))
    }

    fn keep_file(
        &self,
        directory: &OwnedFd,
        name: &str,
        write: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let about = format!("{}/{name}", layout::CHANGES);
        let file = durable::create(directory, name.as_bytes(), 0o600).about(&about)?;
        durable::perform(Step::Write, || write(file.as_fd())).about(about)
    }

    /// Removes what a change left that was never committed, is not kept any more, or whose family is gone.
    ///
    /// # Errors
    /// Errors of the file system and the catalog.
    pub fn drop_uncommitted(&self) -> Result<()> {
        let Some(directory) = self.changes()? else {
            return Ok(());
        };
        for name in layer::names_in(directory.as_fd()).about(layout::CHANGES)? {
            let text = std::str::from_utf8(&name).ok();
            let change = parse_steps(&name).or_else(|| parse_done(&name));
            let change = change.map(|(change, _)| change);
            let Some(change) = change.or_else(|| text?.parse().ok()) else {
                continue;
            };
            let found = self.catalog().change(change)?;
            let is_record = parse_steps(&name).is_none() && parse_done(&name).is_none();
            // One that is not kept any more was about to be removed.
            if found.is_none_or(|found| is_record && !found.is_kept) {
                let about = format!("{}/{}", layout::CHANGES, PathBytes::from(name.clone()));
                durable::unlink(&directory, &name).about(about)?;
            }
        }
        Ok(())
    }

    fn has_change(&self, change: i64) -> Result<bool> {
        Ok(self.catalog().change(change)?.is_some())
    }

    /// Forgets what is needed to take changes back; their contents are the objects' matter.
    ///
    /// # Errors
    /// Errors of the file system and the catalog.
    pub fn forget_changes(&self, changes: &[i64]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let transaction = self.catalog().transaction()?;
        for change in changes {
            transaction.forget_change(*change)?;
        }
        transaction.commit()?;
        let Some(directory) = self.changes()? else {
            return Ok(());
        };
        for change in changes {
            let name = change.to_string();
            match durable::unlink(&directory, name.as_bytes()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).about(format!("{}/{name}", layout::CHANGES)),
            }
        }
        Ok(())
    }

    /// The names in `changes/` that foldfs does not make.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn foreign_changes(&self) -> Result<Vec<Vec<u8>>> {
        let Some(directory) = self.changes()? else {
            return Ok(Vec::new());
        };
        let mut names = layer::names_in(directory.as_fd()).about(layout::CHANGES)?;
        let is_change = |name: &[u8]| {
            let text = std::str::from_utf8(name).ok();
            text.is_some_and(|text| text.parse::<i64>().is_ok())
        };
        names.retain(|name| {
            parse_steps(name).is_none() && parse_done(name).is_none() && !is_change(name)
        });
        Ok(names)
    }

    /// What is still to be done of changes that were committed, in their order.
    ///
    /// # Errors
    /// Errors of the file system and the catalog.
    pub fn unfinished_changes(&self) -> Result<Vec<(i64, ImageId)>> {
        let Some(directory) = self.changes()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for name in layer::names_in(directory.as_fd()).about(layout::CHANGES)? {
            if let Some((change, image)) = parse_steps(&name)
                && self.has_change(change)?
            {
                found.push((change, image));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// What an image still lacks of a change, as [`Store::keep_change`] got it.
    ///
    /// # Errors
    /// It is no regular file, or larger than any can be; errors of the file system.
    pub fn change_steps(&self, change: i64, image: ImageId) -> Result<Vec<u8>> {
        let name = steps_name(change, image);
        let about = format!("{}/{name}", layout::CHANGES);
        let Some(directory) = self.changes()? else {
            return Err(Errno::NOENT).about(about);
        };
        let foreign = |cause: &str| {
            Error::failed(&about, cause).remedy("restore the file from another copy of the store")
        };
        let Some(file) = regular::open(&directory, name.as_bytes()).about(&about)? else {
            return Err(foreign("it is no regular file"));
        };
        let size = fs::fstat(&file).about(&about)?.st_size as u64;
        if size > MOST_STEPS {
            return Err(foreign("it is larger than any that foldfs makes"));
        }
        let mut bytes = vec![0; size as usize];
        let length = copy::read_at(file.as_fd(), &mut bytes, 0).about(&about)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// An image lacks nothing of a change any more. Before anybody alters it: it would be carried out again.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn is_carried_out(&self, change: i64, image: ImageId) -> Result<()> {
        let Some(directory) = self.changes()? else {
            return Ok(());
        };
        let (name, done) = (steps_name(change, image), done_name(change, image));
        let (old, new) = (name.as_bytes(), done.as_bytes());
        durable::rename(&directory, old, &directory, new, RenameFlags::empty())
            .about(format!("{}/{name}", layout::CHANGES))
    }

    /// Sees to it that what images lack nothing of is on the disk, and forgets that they lacked it.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn finish_changes(&self) -> Result<()> {
        let Some(directory) = self.changes()? else {
            return Ok(());
        };
        let mut names = layer::names_in(directory.as_fd()).about(layout::CHANGES)?;
        names.retain(|name| parse_done(name).is_some());
        if names.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for name in names {
            let about = format!("{}/{}", layout::CHANGES, PathBytes::from(name.clone()));
            durable::unlink(&directory, &name).about(about)?;
        }
        durable::sync(&directory).about(layout::CHANGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps_have_one_form() {
        let name = steps_name(7, ImageId(12));
        assert_eq!(parse_steps(name.as_bytes()), Some((7, ImageId(12))));
        for other in ["7", "7-", "-12", "x-12", "7-12-1", ""] {
            assert_eq!(parse_steps(other.as_bytes()), None, "{other}");
        }
        let done = done_name(7, ImageId(12));
        assert_eq!(parse_done(done.as_bytes()), Some((7, ImageId(12))));
        assert_eq!(parse_steps(done.as_bytes()), None);
        assert_eq!(parse_done(name.as_bytes()), None);
    }
}
