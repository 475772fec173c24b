//! Restoring the catalog from one of its copies.
//!
//! A copy of the images' [generation](super::generation) has all that their private layers rely on;
//! what it may lack is added: images made since, and numbers handed out since. An older one is
//! refused unless it is asked for: entries that have moved into a shared layer since would be
//! missing in every image, and those that have left it would be back.
//!
//! The new catalog is complete before it gets its name, and the old one is in the quarantine by
//! then: who is killed in between leaves a store without a catalog, which can be repaired again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::catalog::{Catalog, CatalogMode, ImageRole, NewImage, Reads};
use super::layer::{self, PrivateEntry};
use super::lock::StoreLock;
use super::mark::{self, Mark, Role};
use super::metadata::Time;
use super::number::{ImageId, Number};
use super::quarantine::Quarantine;
use super::tree::{self, Visitor};
use super::{generation, layout, open};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::durable::{self, Step};
use crate::sys::{copy, xattr};

/// The catalog that is to be put in place.
const NEW: &str = "catalog.db.new";

/// Numbers are taken to have been handed out that far behind the highest one that is found.
const MARGIN: u64 = 1 << 20;

/// What a restoration did: what each thing was, and what was done.
pub type Restored = Vec<(String, String)>;

/// Why a store's catalog has to be restored; `None` if SQLite finds nothing and it is no older copy.
///
/// # Errors
/// There is no store; the catalog cannot be read for a reason that is no damage.
pub fn needed(path: &Path) -> Result<Option<String>> {
    let (root, path) = open::open_directory_of_store(path)?;
    examine(root.as_fd(), &path.join(layout::CATALOG))
}

fn examine(root: BorrowedFd<'_>, path: &Path) -> Result<Option<String>> {
    let read_only = open::mounted_read_only(root).about(path.display())?;
    let mode = match read_only {
        true => CatalogMode::ReadOnlyMedium,
        false => CatalogMode::Read,
    };
    let found = Catalog::open(path, mode).and_then(|catalog| {
        let lines = catalog.integrity_check()?;
        Ok((lines.into_iter().next(), catalog.generation()?))
    });
    match found {
        Ok((Some(line), _)) => Ok(Some(line)),
        Ok((None, found)) => {
            let images = generation::of_store(root).unwrap_or(None).unwrap_or(0);
            let behind = images.saturating_sub(found);
            Ok((behind > 0).then(|| generation::older(behind).cause))
        }
        Err(error) if is_damage(&error) => Ok(Some(error.cause)),
        Err(error) => Err(error),
    }
}

/// Whether an error of a catalog says that the file is bad, and not that it is busy, newer than this
/// program, or on a medium that fails.
fn is_damage(error: &Error) -> bool {
    let errno = matches!(error.errno, None | Some(libc::EUCLEAN | libc::ENOENT));
    errno && error.kind == ErrorKind::Failed
}

/// Puts a copy in place of the catalog, which is kept in the quarantine. `cause` is why.
///
/// # Errors
/// The store is in use (kind Busy). No copy is sound and of the images' generation, and with
/// `accept_older` none is sound: nothing is changed.
pub fn restore(path: &Path, accept_older: bool, cause: &str) -> Result<Restored> {
    let (root, path) = open::open_directory_of_store(path)?;
    let object = format!("store {}", path.display());
    let part = |name: &str| layer::open_directory(&root, name.as_bytes(), OFlags::RDONLY);
    let run = part(layout::RUN).about(&object)?;
    let _lock = StoreLock::take(run.as_fd(), &object)?;
    let images = part(layout::IMAGES).about(&object)?;
    let wanted = generation::of_images(images.as_fd())?;
    let (name, found) = choose(&path, wanted, accept_older)?;

    let mut restored = Restored::new();
    let mut quarantine = Quarantine::open(root.as_fd())?;
    copy_file(root.as_fd(), name, NEW).about(NEW)?;
    let new = Catalog::open(&path.join(NEW), CatalogMode::Write)?;
    complete(&new, images.as_fd(), &mut quarantine, &mut restored)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > found) {
        let transaction = new.transaction()?;
        transaction.set_generation(wanted)?;
        transaction.commit()?;
    }
    drop(new);
    // What SQLite could not write back on closing would be lost with the name of its log.
    match fs::statat(&root, format!("{NEW}-wal"), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_size > 0 => {
            let error = Error::failed(NEW, "SQLite could not write its log back");
            return Err(error.remedy("see to it that there is room, and run it again"));
        }
        Ok(_) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).about(NEW),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(&root, NEW, flags, Mode::empty()).about(NEW)?;
    durable::sync(&file).about(NEW)?;
    // The database first: without it nobody takes its log for another one's.
    for suffix in ["", "-wal", "-shm"] {
        let old = format!("{}{suffix}", layout::CATALOG);
        if fs::statat(&root, &*old, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            continue;
        }
        let at = quarantine.take((root.as_fd(), old.as_bytes()), old.as_bytes(), cause, false)?;
        restored.push((old, format!("moved to {at}: {cause}")));
    }
    let (from, to) = (NEW.as_bytes(), layout::CATALOG.as_bytes());
    durable::rename(&root, from, &root, to, RenameFlags::NOREPLACE).about(layout::CATALOG)?;
    durable::sync(&root).about(layout::CATALOG)?;
    restored.push((layout::CATALOG.into(), format!("restored from {name}")));
    Ok(restored)
}

/// The copy to take, and its generation.
fn choose(path: &Path, wanted: Option<u64>, accept_older: bool) -> Result<(&'static str, u64)> {
    let mut why = Vec::new();
    let mut older: Option<(&'static str, u64)> = None;
    for name in [layout::BACKUP, layout::OLDER_BACKUP] {
        let found = Catalog::open(&path.join(name), CatalogMode::ReadOnlyMedium)
            .and_then(|copy| Ok((copy.integrity_check()?, copy.generation()?)));
        match found {
            Ok((lines, found)) if lines.is_empty() => {
                if wanted.is_some_and(|wanted| found >= wanted) {
                    return Ok((name, found));
                }
                why.push(match wanted {
                    Some(wanted) => {
                        let by = wanted - found;
                        format!("{name} is older: shared layers were changed {by} times since")
                    }
                    None => format!("how old {name} is cannot be told"),
                });
                if older.is_none_or(|(_, best)| found > best) {
                    older = Some((name, found));
                }
            }
            Ok((lines, _)) => why.push(format!("{name}: {}", lines.join(", "))),
            Err(error) => why.push(format!("{name}: {}", error.cause)),
        }
    }
    let error = Error::failed(layout::CATALOG, why.join("; "));
    match older {
        Some(older) if accept_older => Ok(older),
        Some(_) => Err(error.remedy(
            "restore a newer one from a backup of the store; with --older-catalog it is taken as \
             it is: what has moved into a shared layer since will be missing in every image, what \
             has left it will be back, and contents that nothing refers to then are kept in \
             quarantine/",
        )),
        None => Err(error.remedy("restore the catalog from a backup of the store")),
    }
}

fn copy_file(root: BorrowedFd<'_>, from: &str, to: &str) -> rustix::io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match durable::unlink(root, format!("{to}{suffix}").as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = fs::openat(root, from, flags, Mode::empty())?;
    let size = fs::fstat(&source)?.st_size as u64;
    let target = durable::create(root, to.as_bytes(), 0o600)?;
    durable::perform(Step::Write, || {
        copy::copy(source.as_fd(), target.as_fd(), size)
    })
}

/// Adds what has come since the copy was made.
fn complete(
    catalog: &Catalog,
    images: BorrowedFd<'_>,
    quarantine: &mut Quarantine,
    restored: &mut Restored,
) -> Result<()> {
    let families = catalog.families()?;
    let mut adopted = Vec::new();
    for name in layer::names_in(images).about(layout::IMAGES)? {
        let Some(id) = layout::parse_image(&name) else {
            continue;
        };
        if catalog.image(id)?.is_some() {
            continue;
        }
        let object = format!("{}/{id}", layout::IMAGES);
        let root = root_of(images, &name);
        match families.iter().find(|family| Some(family.root) == root) {
            Some(family) => adopted.push((id, family.id)),
            None => {
                let cause = "an image of a family that the restored catalog does not have";
                let place = (images, &name[..]);
                let at = quarantine.take(place, object.as_bytes(), cause, false)?;
                restored.push((object, format!("moved to {at}: {cause}")));
            }
        }
    }
    // All at once: with one of them the others would be taken for debris.
    let transaction = catalog.transaction()?;
    for (id, family) in adopted {
        let name = free_name(catalog, id)?;
        transaction.create_image(&NewImage {
            id,
            family,
            name: &name,
            role: ImageRole::Guest,
            created: Time::now().seconds,
            source: "a restored catalog did not have it",
        })?;
        let done = format!("is the image {name} now: the restored catalog did not have it");
        restored.push((format!("{}/{id}", layout::IMAGES), done));
    }
    let mut highest = Highest(0);
    tree::walk(images, layout::IMAGES, &mut highest)?;
    let end = (highest.0 + 1 + MARGIN).min(Number::END);
    let next = transaction.next_number()?;
    transaction.reserve_numbers(end.saturating_sub(next))?;
    transaction.commit()
}

/// The shared root that an image's private root merges with.
fn root_of(images: BorrowedFd<'_>, name: &[u8]) -> Option<Number> {
    let open = |parent: BorrowedFd<'_>, name: &[u8]| -> Option<OwnedFd> {
        layer::open_directory(parent, name, OFlags::RDONLY).ok()
    };
    let image = open(images, name)?;
    let private = open(image.as_fd(), layout::PRIVATE.as_bytes())?;
    match layer::read_entry(private.as_fd(), b".") {
        Ok(Some(PrivateEntry::Marked { mark, .. })) => match mark.role {
            Role::Directory(role) => role.shared(),
            _ => None,
        },
        _ => None,
    }
}

fn free_name(catalog: &Catalog, id: ImageId) -> Result<String> {
    let mut name = format!("recovered-{id}");
    while catalog.image_by_name(&name)?.is_some() {
        name.push('x');
    }
    Ok(name)
}

/// The highest number in any private layer.
struct Highest(u64);

impl Visitor for Highest {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], _kind: FileType) -> Result<()> {
        let about = || name.escape_ascii().to_string();
        let bytes = xattr::get(directory, name, mark::NAME.as_bytes()).about(about())?;
        if let Some(mark) = bytes.and_then(|bytes| Mark::decode(&bytes).ok()) {
            self.0 = self.0.max(mark.number.get());
        }
        Ok(())
    }
}
