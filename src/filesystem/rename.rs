//! rename(2): one host rename in which everything happens; what comes before it does not show.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::create::Permissions;
use super::failure::{Failure, Outcome};
use super::node::{Node, Place, Source};
use super::resolve::check_name;
use super::{Caller, Filesystem};
use crate::store::draft::Draft;
use crate::store::layer::{self, Layer, PrivateEntry};
use crate::store::mark::{DirectoryRole, Mark, Role};
use crate::store::metadata::{Content, FileType};
use crate::store::number::Number;
use crate::sys::durable;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The directory.
    pub parent: &'a Arc<Node>,
    /// The name.
    pub name: &'a [u8],
}

/// What RENAME_WHITEOUT is to leave.
#[derive(Debug, Clone, Copy)]
struct Whiteout {
    number: Number,
    owner: Caller,
}

impl Filesystem {
    /// renameat2(2) with any of its flags. With RENAME_WHITEOUT the old name shows a character
    /// device 0:0 of the caller's afterwards, as on any file system (after a crash in between,
    /// nothing).
    ///
    /// # Errors
    /// ENOENT, EEXIST, EISDIR, ENOTDIR, ENOTEMPTY; EINVAL for a directory into itself and for flags
    /// that exclude each other; EPERM where something locked would come, go or be altered; what the host
    /// gives.
    pub fn rename(
        &self,
        old: Entry<'_>,
        new: Entry<'_>,
        flags: RenameFlags,
        caller: Caller,
    ) -> Outcome<()> {
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE | RenameFlags::WHITEOUT;
        let is_exchange = flags.contains(RenameFlags::EXCHANGE);
        if !known.contains(flags) || is_exchange && flags != RenameFlags::EXCHANGE {
            return Err(Errno::INVAL.into());
        }
        check_name(new.name)?;
        // May wait for the catalog: before any lock.
        let whiteout = match flags.contains(RenameFlags::WHITEOUT) {
            true => Some(Whiteout {
                number: self.store.numbers().next()?,
                owner: caller,
            }),
            false => None,
        };
        let change = self.change.read();
        let names = self.names.write();
        if matches!(new.parent.place(), Place::Unlinked) {
            return Err(Errno::NOENT.into());
        }
        let source = self.child(old.parent, old.name)?.ok_or(Errno::NOENT)?;
        let target = self.child(new.parent, new.name);
        let renamed = match &target {
            Ok(target) => self
                .refuse_locked_rename((old, &source), (new, target.as_ref()), flags)
                .and_then(|()| {
                    self.rename_nodes(old, &source, new, target.as_ref(), flags, whiteout)
                }),
            Err(_) => Ok(()),
        };
        drop((names, change));
        self.done(source);
        if let Some(target) = target? {
            self.done(target);
        }
        renamed
    }

    fn rename_nodes(
        &self,
        old: Entry<'_>,
        source: &Arc<Node>,
        new: Entry<'_>,
        target: Option<&Arc<Node>>,
        flags: RenameFlags,
        whiteout: Option<Whiteout>,
    ) -> Outcome<()> {
        let is_exchange = flags.contains(RenameFlags::EXCHANGE);
        match target {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST.into()),
            None if is_exchange => return Err(Errno::NOENT.into()),
            // Two names of one file stay as they are.
            Some(target) if target.number == source.number => return Ok(()),
            _ => {}
        }
        if source.file_type == FileType::Directory && is_within(new.parent, source) {
            return Err(Errno::INVAL.into());
        }
        let Some(target) = target else {
            return self.replace(old, source, new, None, whiteout);
        };
        if target.file_type == FileType::Directory && is_within(old.parent, target) {
            return Err(match is_exchange {
                true => Errno::INVAL.into(),
                false => Errno::NOTEMPTY.into(),
            });
        }
        if is_exchange {
            return self.exchange(old, source, new, target);
        }
        match (source.file_type, target.file_type) {
            (FileType::Directory, FileType::Directory) if !self.is_empty(target)? => {
                Err(Errno::NOTEMPTY.into())
            }
            (FileType::Directory, other) if other != FileType::Directory => {
                Err(Errno::NOTDIR.into())
            }
            (other, FileType::Directory) if other != FileType::Directory => {
                Err(Errno::ISDIR.into())
            }
            _ => self.replace(old, source, new, Some(target), whiteout),
        }
    }

    fn replace(
        &self,
        old: Entry<'_>,
        source: &Arc<Node>,
        new: Entry<'_>,
        target: Option<&Arc<Node>>,
        whiteout: Option<Whiteout>,
    ) -> Outcome<()> {
        let from = self.ensure_movable(old, source)?;
        let to = self.ensure_private_directory(new.parent)?;
        let leaves_whiteout = self.shared_holds(old.parent, old.name)?;
        let occupant = layer::read_entry(to.as_fd(), new.name)?;
        let over_whiteout = matches!(occupant, Some(PrivateEntry::Whiteout));
        let device = match whiteout {
            Some(whiteout) => Some(self.whiteout_of_the_guest(whiteout, old.parent)?),
            None => None,
        };
        // A directory cannot replace a device, but change places with it.
        let exchanges = over_whiteout && source.file_type == FileType::Directory;
        let flags = match (exchanges, leaves_whiteout || device.is_some()) {
            (true, _) => RenameFlags::EXCHANGE,
            (false, true) => RenameFlags::WHITEOUT,
            (false, false) => RenameFlags::empty(),
        };
        self.change_names(&[old.parent, new.parent], || {
            if let Some(target) = target {
                self.keep_target(new, target, &to)?;
            }
            let renamed = durable::rename(&from, old.name, &to, new.name, flags);
            if let (Err(_), Some(target)) = (&renamed, target) {
                self.keep_target_no_more(target)?;
            }
            Ok(renamed?)
        })?;
        self.moved(source, new);
        if let Some(target) = target {
            self.afterwards(self.replaced_by_rename(target));
        }
        if let Some(device) = device {
            device.place(&from, old.name, RenameFlags::empty())?;
        } else if exchanges && !leaves_whiteout {
            // It hides nothing here.
            self.afterwards(durable::unlink(&from, old.name).map_err(Failure::from));
        }
        Ok(())
    }

    fn replaced_by_rename(&self, target: &Arc<Node>) -> Outcome<()> {
        if matches!(target.place(), Place::Index) {
            return self.name_gone(target);
        }
        self.unlinked(target);
        match target.source() {
            Source::Shared(_) | Source::SharedDirectory(_) => Ok(()),
            Source::Private | Source::PrivateDirectory(_) => self.drop_shown(target).map(drop),
        }
    }

    fn exchange(
        &self,
        old: Entry<'_>,
        source: &Arc<Node>,
        new: Entry<'_>,
        target: &Arc<Node>,
    ) -> Outcome<()> {
        let from = self.ensure_movable(old, source)?;
        let to = self.ensure_movable(new, target)?;
        self.change_names(&[old.parent, new.parent], || {
            let flags = RenameFlags::EXCHANGE;
            Ok(durable::rename(&from, old.name, &to, new.name, flags)?)
        })?;
        self.moved(source, new);
        self.moved(target, old);
        Ok(())
    }

    /// Makes a name a private entry that can be renamed on the host, invisibly; the private
    /// directory that holds it.
    fn ensure_movable(&self, entry: Entry<'_>, node: &Arc<Node>) -> Outcome<Arc<OwnedFd>> {
        match node.source() {
            Source::Shared(_) => self.stub(node)?,
            Source::Private => {}
            Source::SharedDirectory(_) | Source::PrivateDirectory(_) => {
                self.redirect(node)?;
                self.own_directory(node)?;
            }
        }
        let directory = self.ensure_private_directory(entry.parent)?;
        let is_missing = layer::read_entry(directory.as_fd(), entry.name)?.is_none();
        if is_missing && matches!(node.place(), Place::Index) {
            self.ensure_token(node.number)?;
            let link = self.token_link(node.number)?;
            self.keep_times(entry.parent, || {
                Ok(link.place(&directory, entry.name, RenameFlags::NOREPLACE)?)
            })?;
        }
        Ok(directory)
    }

    /// Notes that a shared directory may stand elsewhere from now on.
    pub(super) fn redirect(&self, node: &Node) -> Outcome<()> {
        let Some(shared) = node.shared_directory() else {
            return Ok(());
        };
        if self.view.is_redirected(shared) {
            return Ok(());
        }
        let marker = Layer::number_name(shared);
        match durable::create(self.view.layer.redirects(), &marker, 0o600) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.view.redirect_added(shared);
        Ok(())
    }

    /// A guest's character device 0:0, which is no whiteout of ours. Of its directory it inherits
    /// what any new inode does, as on ext4.
    fn whiteout_of_the_guest(&self, whiteout: Whiteout, parent: &Arc<Node>) -> Outcome<Draft<'_>> {
        let content = Content::CharDevice { rdev: 0 };
        let draft = Draft::new(&self.view.layer, &content)?;
        draft.mark(&Mark::new(whiteout.number, Role::File))?;
        let permissions = Permissions {
            mode: 0,
            umask: 0,
            caller: whiteout.owner,
        };
        self.give_owner(parent, &draft, &content, &permissions)?;
        Ok(draft)
    }

    /// What the host is about to replace must be there for those who refer to it.
    fn keep_target(&self, new: Entry<'_>, target: &Arc<Node>, to: &OwnedFd) -> Outcome<()> {
        match (target.source(), target.place()) {
            (Source::Shared(_), _) => self.index_if_linked(target),
            (Source::Private, Place::Entry { .. }) => {
                let orphan = Layer::number_name(target.number);
                Ok(durable::link(
                    to,
                    new.name,
                    self.view.layer.orphans(),
                    &orphan,
                )?)
            }
            (Source::PrivateDirectory(_), _) => self.keep_directory(target),
            (Source::Private | Source::SharedDirectory(_), _) => Ok(()),
        }
    }

    /// The rename did not happen after all.
    fn keep_target_no_more(&self, target: &Arc<Node>) -> Outcome<()> {
        self.replaced.lock().remove(&target.number);
        if let (Source::Private, Place::Entry { .. }) = (target.source(), target.place()) {
            let orphan = Layer::number_name(target.number);
            durable::unlink(self.view.layer.orphans(), &orphan)?;
        }
        Ok(())
    }

    /// A directory that the view shows empty becomes one that the host can replace: what was hidden
    /// in it is gone with its whiteouts. Directories have no second name to be kept by, but an open
    /// descriptor keeps one as well.
    fn keep_directory(&self, target: &Arc<Node>) -> Outcome<()> {
        self.own_directory(target)?;
        let directory = self.private_directory(target)?.ok_or(Errno::STALE)?;
        let names = layer::names_in(directory.as_fd())?;
        if !names.is_empty() {
            self.keep_times(target, || {
                let (_, mark) = self.host_inode(target)?;
                let role = Role::Directory(DirectoryRole::Own);
                self.write_mark(target, &Mark { role, ..mark })?;
                for name in &names {
                    durable::unlink(&directory, name)?;
                }
                Ok(())
            })?;
        }
        self.replaced.lock().insert(target.number, directory);
        Ok(())
    }

    /// The host has renamed what is a node's entry now.
    fn moved(&self, node: &Arc<Node>, to: Entry<'_>) {
        if matches!(node.place(), Place::Index) {
            return self.afterwards(self.touch_ctime(node));
        }
        let place = Place::Entry {
            parent: to.parent.clone(),
            name: to.name.into(),
        };
        let before = std::mem::replace(&mut node.state.lock().place, place);
        if let Place::Entry { parent, .. } = before {
            self.done(parent);
        }
        // The host has noted the time of the rename.
        self.afterwards(self.drop_shown(node));
    }
}

/// Whether a directory is, or lies below, another one.
fn is_within(directory: &Arc<Node>, other: &Node) -> bool {
    let mut current = directory.clone();
    loop {
        if current.number == other.number {
            return true;
        }
        match current.place() {
            Place::Entry { parent, .. } => current = parent,
            Place::Root | Place::Index | Place::Unlinked => return false,
        }
    }
}
