//! check --repair: mends what another copy can mend, and moves aside what nothing explains. Nothing
//! is removed that is not in the store a second time. It works alone: no daemon, no other command.
//!
//! It checks, repairs, and checks again, as one repair may uncover what the next one needs. Killed
//! at any moment it can be run again: each repair is one rename, or makes what was missing.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags};

use super::check::{self, Fix};
use super::context::Context;
use super::references::references;
use super::report::{CheckReport, Finding, Repair};
use crate::error::{Context as _, Error, Result};
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::Reads;
use crate::store::content::digest_of;
use crate::store::digest::Digest;
use crate::store::layer::{self, Layer};
use crate::store::layout;
use crate::store::mark::{self, Mark, Role};
use crate::store::number::Number;
use crate::store::objects::Found;
use crate::store::objects::Objects;
use crate::store::quarantine::{Quarantine, open_parent};
use crate::store::restore;
use crate::store::tree::{self, Visitor};
use crate::sys::copy;
use crate::sys::durable::{self, Step};

/// How to repair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Read every object, and mend those whose content is not theirs.
    pub content: bool,
    /// A directory that may hold copies of damaged files, besides the images.
    pub from: Option<PathBuf>,
    /// Take a copy of the catalog that is older than the images.
    pub older_catalog: bool,
}

/// What is to be done about a store's catalog before it can be opened; nothing else is done here.
///
/// # Errors
/// Those of [`restore::needed`].
pub fn plan_catalog(store: &Path) -> Result<Option<CheckReport>> {
    let report = |cause: String| CheckReport {
        findings: vec![Finding {
            object: b"catalog.db"[..].into(),
            cause,
            remedy: "the rest is looked at when it is restored".into(),
        }],
        repairs: vec![Repair {
            object: b"catalog.db"[..].into(),
            done: "would be restored from catalog.bak, if that is sound and not older".into(),
        }],
        ..CheckReport::default()
    };
    Ok(restore::needed(store)?.map(report))
}

/// Restores a store's catalog if it cannot be used.
///
/// # Errors
/// Those of [`restore::restore`].
pub fn catalog(store: &Path, options: &Options) -> Result<Vec<Repair>> {
    match restore::needed(store)? {
        Some(cause) => restored(restore::restore(store, options.older_catalog, &cause)?),
        None => Ok(Vec::new()),
    }
}

/// Restores a store's catalog in which a check has found something that SQLite does not see;
/// `None` if it has not, or no copy is good enough.
///
/// # Errors
/// Those of [`restore::restore`], but for what it says of the copies.
pub fn catalog_again(store: &Path, report: &CheckReport) -> Result<Option<Vec<Repair>>> {
    let bad = |finding: &&Finding| finding.object.as_bytes().starts_with(b"catalog.db");
    let Some(finding) = report.findings.iter().find(bad) else {
        return Ok(None);
    };
    match restore::restore(store, false, &finding.cause) {
        Ok(done) => Ok(Some(restored(done)?)),
        Err(error) if error.object == layout::CATALOG => {
            log::warn!("{error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn restored(done: restore::Restored) -> Result<Vec<Repair>> {
    let repair = |(object, done): (String, String)| Repair {
        object: object.into_bytes().into(),
        done,
    };
    Ok(done.into_iter().map(repair).collect())
}

/// Rounds of check and repair. Each has done something the one before could not.
const ROUNDS: usize = 4;

/// Numbers are taken to have been handed out that far behind the highest one that is found.
const MARGIN: u64 = 1 << 20;

/// What would be done, beside all findings; changes nothing.
///
/// # Errors
/// As [`check::run`].
pub fn plan(context: &Context, options: &Options, progress: &dyn Progress) -> Result<CheckReport> {
    let content = options.content;
    let options = check::Options { content };
    let (mut report, fixes) = check::run_for_repair(context, options, progress)?;
    report.repairs = fixes.iter().map(planned).collect();
    Ok(report)
}

/// Repairs; the report's findings are what is left. The store is open for writing.
///
/// # Errors
/// Where nothing can be read or written at all. A repair that fails is no error: its finding stays.
pub fn apply(context: &Context, options: &Options, progress: &dyn Progress) -> Result<CheckReport> {
    let mut repairing = Repairing {
        context,
        options,
        quarantine: None,
        repairs: Vec::new(),
    };
    let mut tried: Vec<Fix> = Vec::new();
    let content = options.content;
    let looking = check::Options { content };
    let mut round = 0;
    loop {
        let (mut report, mut fixes) = check::run_for_repair(context, looking, progress)?;
        fixes.retain(|fix| !tried.contains(fix));
        round += 1;
        if fixes.is_empty() || round > ROUNDS {
            if options.older_catalog {
                repairing.unreferenced()?;
            }
            report.repairs = repairing.repairs;
            return Ok(report);
        }
        repairing.round(&fixes, progress)?;
        tried.extend(fixes);
    }
}

fn shown(path: &[u8]) -> PathBytes {
    PathBytes::from(path)
}

fn object_path(digest: &Digest) -> String {
    format!("{}/{}", layout::OBJECTS, layout::object_name(digest))
}

fn planned(fix: &Fix) -> Repair {
    let (object, done) = match fix {
        Fix::Aside { path, cause, .. } => {
            let done = format!("would be moved to {}/: {cause}", layout::QUARANTINE);
            (shown(path), done)
        }
        Fix::Directory { path } => (shown(path), "would be made".into()),
        Fix::Object { digest, .. } => (
            object_path(digest).into_bytes().into(),
            "would be looked for in private files, and moved aside if it is not found".into(),
        ),
        Fix::Owner(digest) => (
            object_path(digest).into_bytes().into(),
            "would be root's and read-only".into(),
        ),
        Fix::OwnInode(digest) => (
            object_path(digest).into_bytes().into(),
            "would get an inode of its own".into(),
        ),
        Fix::Mark { path } => (shown(path), "would get a new mark and number".into()),
        Fix::Redirect { image, shared } => (
            format!("images/{image}/redirects/{shared}")
                .into_bytes()
                .into(),
            "would be made".into(),
        ),
        Fix::Token { image, number, .. } => (
            format!("images/{image}/index/{number}.names")
                .into_bytes()
                .into(),
            "would be linked again".into(),
        ),
        Fix::Forget(change) => (
            format!("{}/{change}", layout::CHANGES).into_bytes().into(),
            "the change could not be taken back any more".into(),
        ),
        Fix::Counter(number) => (
            b"catalog.db"[..].into(),
            format!("numbers would be handed out behind {number}"),
        ),
    };
    Repair { object, done }
}

struct Repairing<'a> {
    context: &'a Context,
    options: &'a Options,
    quarantine: Option<Quarantine>,
    repairs: Vec<Repair>,
}

impl Repairing<'_> {
    fn done(&mut self, object: impl Into<Vec<u8>>, done: impl Into<String>) {
        let (object, done) = (PathBytes::from(object.into()), done.into());
        log::info!("{object}: {done}");
        self.repairs.push(Repair { object, done });
    }

    fn round(&mut self, fixes: &[Fix], progress: &dyn Progress) -> Result<()> {
        let mut objects = HashMap::new();
        for fix in fixes {
            if let Fix::Object { digest, size } = fix {
                objects.insert(*digest, *size);
            } else if let Err(error) = self.one(fix) {
                // What is wrong stays a finding.
                log::warn!("{error}");
            }
        }
        if !objects.is_empty() {
            progress.message("looking for copies of damaged objects");
            self.objects(objects)?;
        }
        self.context.store.sync()
    }

    fn one(&mut self, fix: &Fix) -> Result<()> {
        let store = &self.context.store;
        match fix {
            Fix::Aside { path, cause, hides } => self.aside(path, cause, *hides),
            Fix::Directory { path } => {
                let (parent, name) = open_parent(store.root(), path)?;
                durable::mkdir(&parent, name, 0o700).about(path.escape_ascii())?;
                self.done(&path[..], "made anew, empty");
                Ok(())
            }
            Fix::Object { .. } => Ok(()),
            Fix::Owner(digest) => {
                let path = object_path(digest);
                let (parent, name) = open_parent(store.root(), path.as_bytes())?;
                Objects::strip(parent.as_fd(), name)?;
                self.done(path, "root's and read-only now");
                Ok(())
            }
            Fix::OwnInode(digest) => {
                let file = store.objects().open(digest)?;
                let size = fs::fstat(&file).about(object_path(digest))?.st_size as u64;
                if self.becomes(file.as_fd(), digest, size)? {
                    self.done(object_path(digest), "has an inode of its own now");
                }
                Ok(())
            }
            Fix::Mark { path } => {
                let (parent, name) = open_parent(store.root(), path)?;
                let mark = Mark::new(store.numbers().next()?, Role::File);
                let (attribute, flags) = (mark::NAME.as_bytes(), XattrFlags::empty());
                durable::set_xattr(parent.as_fd(), name, attribute, &mark.encode(), flags)
                    .about(path.escape_ascii())?;
                let done = "has a new mark; its inode number is another one now";
                self.done(&path[..], done);
                Ok(())
            }
            Fix::Redirect { image, shared } => {
                let directories = store.image_dirs(*image)?;
                let path = format!("images/{image}/redirects/{shared}");
                let name = Layer::number_name(*shared);
                durable::create(&directories.redirects, &name, 0o600).about(&path)?;
                self.done(path, "made again");
                Ok(())
            }
            Fix::Token {
                image,
                number,
                name: path,
            } => {
                let directories = store.image_dirs(*image)?;
                let (parent, name) = open_parent(store.root(), path)?;
                let token = Layer::token_name(*number);
                let path = format!("images/{image}/index/{number}.names");
                durable::link(&parent, name, &directories.index, &token).about(&path)?;
                self.done(path, "linked again");
                Ok(())
            }
            Fix::Forget(change) => {
                self.context.store.forget_changes(&[*change])?;
                let done = "the change cannot be taken back any more";
                self.done(format!("{}/{change}", layout::CHANGES), done);
                Ok(())
            }
            Fix::Counter(number) => self.counter(*number),
        }
    }

    fn counter(&mut self, number: Number) -> Result<()> {
        let catalog = self.context.store.catalog();
        let next = catalog.next_number()?;
        if number.get() >= next {
            let end = (number.get() + 1 + MARGIN).min(Number::END);
            catalog.reserve_numbers(end - next)?;
            let done = format!("numbers are handed out from {end} on");
            self.done(layout::CATALOG, done);
        }
        Ok(())
    }

    fn aside(&mut self, path: &[u8], cause: &str, hides: bool) -> Result<()> {
        let store = &self.context.store;
        let (parent, name) = open_parent(store.root(), path)?;
        let quarantine = match &mut self.quarantine {
            Some(quarantine) => quarantine,
            None => self.quarantine.insert(Quarantine::open(store.root())?),
        };
        let at = quarantine.take((parent.as_fd(), name), path, cause, hides)?;
        let mut done = format!("moved to {at}: {cause}");
        if hides {
            done.push_str("; a whiteout is in its place, for the shared layer has its name");
        }
        self.done(path, done);
        Ok(())
    }

    /// Keeps contents that nothing refers to from being collected: with an older catalog they may be
    /// all that is left of a file.
    fn unreferenced(&mut self) -> Result<()> {
        let referenced = references(self.context, &[])?;
        let mut left = Vec::new();
        self.context.store.objects().for_each(|found| {
            if let Found::Object(digest, _) = found {
                left.extend((!referenced.contains(&digest)).then_some(digest));
            }
            Ok(())
        })?;
        let cause = "nothing in the older catalog refers to it";
        for digest in left {
            self.aside(object_path(&digest).as_bytes(), cause, false)?;
        }
        Ok(())
    }

    /// Looks for content of these digests and sizes in all private files.
    fn objects(&mut self, wanted: HashMap<Digest, u64>) -> Result<()> {
        let store = self.context.store.clone();
        let mut seeker = Seeker {
            repairing: self,
            wanted,
        };
        tree::walk(store.images(), layout::IMAGES, &mut seeker)?;
        let flags = OFlags::RDONLY;
        let quarantine = layout::QUARANTINE;
        if let Ok(directory) = layer::open_directory(store.root(), quarantine.as_bytes(), flags) {
            tree::walk(directory.as_fd(), quarantine, &mut seeker)?;
        }
        if let Some(from) = &seeker.repairing.options.from {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = fs::open(from, flags, Mode::empty()).about(from.display())?;
            let what = from.display().to_string();
            tree::walk(directory.as_fd(), &what, &mut seeker)?;
        }
        let Seeker { wanted, .. } = seeker;
        for digest in wanted.keys() {
            let path = object_path(digest);
            let there = store.objects().exists(digest).unwrap_or(false);
            if there {
                let cause = "its content is damaged, and no copy of it was found";
                self.aside(path.as_bytes(), cause, false)?;
            }
        }
        Ok(())
    }

    /// Makes a copy of an open file the object, if it has the right content.
    fn becomes(&self, file: BorrowedFd<'_>, digest: &Digest, size: u64) -> Result<bool> {
        let about = || object_path(digest);
        let store = &self.context.store;
        let staging = store.stage("repair")?;
        let name = layout::work_name(digest);
        let copied = durable::create(staging.directory(), name.as_bytes(), 0o600).about(about())?;
        durable::perform(Step::Write, || copy::copy(file, copied.as_fd(), size)).about(about())?;
        if digest_of(copied.as_fd()).about(about())? != *digest {
            return Ok(false);
        }
        durable::sync(&copied).about(about())?;
        Objects::strip(staging.directory(), name.as_bytes())?;
        let objects = store.objects();
        objects.replace(staging.directory(), name.as_bytes(), digest)?;
        Ok(true)
    }
}

/// Finds copies of objects.
struct Seeker<'a, 'b> {
    repairing: &'a mut Repairing<'b>,
    /// What is still to be found.
    wanted: HashMap<Digest, u64>,
}

impl Seeker<'_, '_> {
    fn look(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let about = || name.escape_ascii().to_string();
        let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).about(about())?;
        let size = stat.st_size as u64;
        // A stub is all holes: there is nothing to be found in it, but it has an object's size.
        if stat.st_blocks == 0 || !self.wanted.values().any(|wanted| *wanted == size) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(directory, name, flags, Mode::empty()).about(about())?;
        let digest = digest_of(file.as_fd()).about(about())?;
        if self.wanted.contains_key(&digest)
            && self.repairing.becomes(file.as_fd(), &digest, size)?
        {
            self.wanted.remove(&digest);
            let done = format!("mended with the content of a file named {}", about());
            self.repairing.done(object_path(&digest), done);
        }
        Ok(())
    }
}

impl Visitor for Seeker<'_, '_> {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<()> {
        if kind != FileType::RegularFile || self.wanted.is_empty() {
            return Ok(());
        }
        match self.look(directory, name) {
            Err(error) if is_full(&error) => Err(error),
            // One that cannot be read is none.
            Err(error) => {
                log::warn!("{error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn is_full(error: &Error) -> bool {
    matches!(error.errno, Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS))
}
