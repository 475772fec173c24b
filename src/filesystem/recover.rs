//! What is cleared up before an image comes to life: debris of operations that a crash or the end
//! of the last instance cut short. None of it shows.

use std::collections::HashSet;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, RenameFlags, statat};
use rustix::io::Errno;

use super::Filesystem;
use crate::error::{Context, Result};
use crate::merge::locate;
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::Role;
use crate::store::number::Number;
use crate::sys::durable;

impl Filesystem {
    /// Empties `orphans/` and removes the files in `index/` that have no name, and tokens without a
    /// file; but for files that the kernel knows, whose numbers are in `known`. Before the first operation of this instance, in a store that is open for writing.
    ///
    /// # Errors
    /// Those of the host and the catalog.
    pub fn recover(&self, known: &HashSet<Number>) -> Result<()> {
        let image = self.view.layer.image();
        self.empty_orphans(known)?;
        let about = format!("images/{image}/index");
        for number in self.view.layer.index_numbers()? {
            self.recover_indexed(number, known.contains(&number), &about)?;
        }
        for number in self.view.layer.token_numbers()? {
            if !self.view.is_indexed(number) {
                self.recover_token(number, &about)?;
            }
        }
        Ok(())
    }

    /// A token whose file was not there yet, or is gone; one that still has names is no debris.
    fn recover_token(&self, number: Number, about: &str) -> Result<()> {
        let (index, token) = (self.view.layer.index(), Layer::token_name(number));
        let stat = statat(index, &token[..], AtFlags::SYMLINK_NOFOLLOW).about(about)?;
        match stat.st_nlink {
            1 => durable::unlink(index, &token).about(about),
            _ => Ok(()),
        }
    }

    fn recover_indexed(&self, number: Number, is_known: bool, about: &str) -> Result<()> {
        let index = self.view.layer.index();
        let (file, token) = (Layer::number_name(number), Layer::token_name(number));
        let private_names = match statat(index.as_fd(), &token[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat.st_nlink - 1,
            Err(Errno::NOENT) => 0,
            Err(error) => return Err(error).about(about),
        };
        let entry = layer::read_entry(index, &file).about(about)?;
        // A link of the token, to be exchanged for the file: the file is still at its one name.
        let is_placeholder = matches!(
            entry,
            Some(PrivateEntry::Marked { mark, .. }) if mark.role == Role::Name
        );
        if !is_placeholder {
            if private_names > 0 {
                return Ok(());
            }
            let shared = self.view.shared_of(number);
            if locate::shared_names_shown(&self.view, shared)? > 0 {
                return Ok(());
            }
            if is_known {
                let orphans = self.view.layer.orphans();
                durable::rename(index, &file, orphans, &file, RenameFlags::NOREPLACE)
                    .about(about)?;
            }
        }
        for name in [&file, &token] {
            match durable::unlink(index, name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).about(about),
            }
        }
        self.view.index_removed(number);
        Ok(())
    }
}
