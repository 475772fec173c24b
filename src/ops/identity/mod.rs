//! What of a clone is its origin's identity, and what becomes of it: the clone's private layer is altered before
//! anybody can see it. History (logs), users' keys and what applications take for their identity stay.

mod hostname;
mod place;
mod rules;

use std::collections::{BTreeMap, HashMap};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::report::{IdentityReport, ResetKind, ResetPath};
use crate::archive::ImageSource;
use crate::error::{Error, Result};
use crate::filesystem::Filesystem;
use crate::filesystem::data::SetId;
use crate::filesystem::failure::Outcome;
use crate::filesystem::open::OpenFlags;
use crate::merge::locked;
use crate::merge::locks::Locks;
use crate::merge::lookup::{Item, Site};
use crate::path_bytes::PathBytes;
use crate::store::Store;
use crate::store::catalog::{Image, Reads};
use crate::store::metadata::{Content, FileType, Metadata, Time};
use crate::store::number::Number;
use place::Place;
use rules::Only;

/// A machine has far fewer files of this kind.
const MOST: usize = 1000;

/// What is written to afterwards.
const EMPTY: Content = Content::Regular {
    size: 0,
    digest: None,
};

/// The longest /etc/hosts that is read.
const LONGEST_HOSTS: u64 = 16 << 20;

/// The longest other file that is read.
const LONGEST: u64 = 64 << 10;

/// How a clone's identity is reset.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The host's name; `None`: the image's.
    #[serde(default)]
    pub hostname: Option<String>,
}

/// What becomes of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Remove,
    /// A new file takes its place, so that other names of the old one keep what they have.
    Write {
        bytes: Vec<u8>,
        metadata: Metadata,
    },
}

/// A path that is altered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Altered {
    number: Number,
    /// The file may have other names.
    several_names: bool,
    change: Change,
}

/// All that becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reset {
    /// By path, without a leading '/'.
    altered: BTreeMap<Vec<u8>, Altered>,
    /// The host's name, if it gets another one.
    hostname: Option<String>,
}

fn shown(path: &[u8]) -> PathBytes {
    PathBytes::from([b"/", path].concat())
}

/// What resetting the identity of a clone of `origin` will do, if `origin` stays as it is.
///
/// # Errors
/// What it would alter is locked; the host's name is none, or there is no place for it; those of reading the image.
pub(super) fn plan(
    context: &Context,
    origin: &Image,
    name: &str,
    options: &Options,
) -> Result<Reset> {
    if let Some(hostname) = &options.hostname {
        hostname::check(hostname)?;
    }
    let filesystem = context.images.filesystem(origin.id)?;
    let _names = filesystem.names_lock().read();
    look(context, &filesystem, origin, name, options)
}

/// Resets the identity of a copy of `origin` that nobody sees yet. What is done is on the disk after the next sync.
///
/// # Errors
/// As [`plan`]; the host's, ENOSPC for one. The copy is of no use then.
pub(super) fn apply(
    context: &Context,
    staged: &Filesystem,
    origin: &Image,
    name: &str,
    options: &Options,
) -> Result<Reset> {
    let reset = look(context, staged, origin, name, options)?;
    reset.carry_out(&context.store, staged)?;
    Ok(reset)
}

fn look(
    context: &Context,
    filesystem: &Filesystem,
    origin: &Image,
    name: &str,
    options: &Options,
) -> Result<Reset> {
    let source = ImageSource {
        view: &filesystem.view,
        objects: context.store.objects(),
    };
    let mut looking = Looking {
        source: &source,
        found: Reset::default(),
    };
    looking.machine_id()?;
    looking.hostname(name, options)?;
    looking.files_that_go()?;
    let found = looking.found;
    found.refuse_locked(context, filesystem, origin)?;
    Ok(found)
}

struct Looking<'a> {
    source: &'a ImageSource<'a>,
    found: Reset,
}

impl Looking<'_> {
    fn add(&mut self, path: Vec<u8>, item: &Item, change: Change) -> Result<()> {
        let several_names = match item {
            Item::Private { site, .. } => *site == Site::Index,
            Item::Shared { inode, .. } => inode.links > 1,
        };
        // What is emptied does not go when it is also found where files go.
        self.found.altered.entry(path).or_insert(Altered {
            number: item.number(),
            several_names,
            change,
        });
        if self.found.altered.len() > MOST {
            let cause = format!("it has more than {MOST} files that look like an identity");
            return Err(Error::failed("the image", cause)
                .remedy("clone without --reset-identity, and remove them in the clone"));
        }
        Ok(())
    }

    fn write(&mut self, place: &Place, bytes: Vec<u8>) -> Result<()> {
        let (_, mut metadata) = place.describe(self.source)?;
        metadata.mtime = Time::now();
        let change = Change::Write { bytes, metadata };
        self.add(place.path.clone(), &place.item, change)
    }

    fn machine_id(&mut self) -> Result<()> {
        let Some(place) = place::file(self.source, rules::MACHINE_ID)? else {
            return Ok(());
        };
        let is_one = match place.read(self.source, LONGEST)? {
            // machine-id(5): the next boot is the first one, which makes it.
            Some(bytes) => !matches!(bytes.trim_ascii(), b"" | b"uninitialized"),
            None => true,
        };
        match is_one {
            true => self.write(&place, Vec::new()),
            false => Ok(()),
        }
    }

    fn hostname(&mut self, name: &str, options: &Options) -> Result<()> {
        let Some(place) = place::file(self.source, rules::HOSTNAME)? else {
            return match &options.hostname {
                None => Ok(()),
                Some(_) => Err(Error::failed("/etc/hostname", "the image has no such file")
                    .remedy("leave out --hostname")),
            };
        };
        let new = options.hostname.as_deref().unwrap_or(name);
        hostname::check(new)?;
        let file = place.read(self.source, LONGEST)?.unwrap_or_default();
        let old = hostname::name_in(&file);
        if old == Some(new.as_bytes()) {
            return Ok(());
        }
        self.write(&place, format!("{new}\n").into_bytes())?;
        self.found.hostname = Some(new.to_owned());
        match old {
            Some(old) => self.hosts(old, new.as_bytes()),
            None => Ok(()),
        }
    }

    fn hosts(&mut self, old: &[u8], new: &[u8]) -> Result<()> {
        let Some(place) = place::file(self.source, rules::HOSTS)? else {
            return Ok(());
        };
        let file = place.read(self.source, LONGEST_HOSTS)?.ok_or_else(|| {
            let cause = "it is too long to look for the host's name in it";
            Error::failed(shown(&place.path), cause).remedy("make it shorter than 16 MiB")
        })?;
        match hostname::rename_in_hosts(&file, old, new) {
            Some(renamed) => self.write(&place, renamed),
            None => Ok(()),
        }
    }

    fn files_that_go(&mut self) -> Result<()> {
        for rule in rules::RULES {
            let Some(directory) = place::directory(self.source, rule.directory)? else {
                continue;
            };
            for (path, item) in directory.places(self.source, &|name| rule.is_about(name))? {
                let goes = match rule.only {
                    Only::AnyType => item.file_type() != FileType::Directory,
                    Only::Regular => item.file_type() == FileType::Regular,
                };
                if goes {
                    self.add(path, &item, Change::Remove)?;
                }
            }
        }
        Ok(())
    }
}

impl Altered {
    fn kind(&self) -> ResetKind {
        match &self.change {
            Change::Remove => ResetKind::Removed,
            Change::Write { bytes, .. } if bytes.is_empty() => ResetKind::Emptied,
            Change::Write { .. } => ResetKind::Rewritten,
        }
    }
}

impl Reset {
    /// What is reported of it.
    pub(super) fn report(&self) -> IdentityReport {
        let paths = self.altered.iter().map(|(path, altered)| ResetPath {
            path: shown(path),
            kind: altered.kind(),
        });
        IdentityReport {
            hostname: self.hostname.clone(),
            paths: paths.collect(),
        }
    }

    /// An image's own changes leave alone what is locked, and so does this.
    fn refuse_locked(
        &self,
        context: &Context,
        filesystem: &Filesystem,
        origin: &Image,
    ) -> Result<()> {
        let patterns = context.store.catalog().locks(origin.family)?;
        let locks = Locks::new(&patterns)?;
        if locks.is_empty() {
            return Ok(());
        }
        let refused = |path: &[u8], pattern: &str| {
            Err(Error {
                errno: Some(libc::EPERM),
                ..Error::failed(shown(path), format!("it is locked by {pattern:?}")).remedy(
                    "unlock it, or clone without --reset-identity: a clone cannot alter what its family has locked",
                )
            })
        };
        for path in self.altered.keys() {
            if let Some(pattern) = locks.of(path, false) {
                return refused(path, pattern);
            }
        }
        let linked = self.altered.iter().filter(|(_, of)| of.several_names);
        let linked: HashMap<Number, &Vec<u8>> =
            linked.map(|(path, of)| (of.number, path)).collect();
        if linked.is_empty() {
            return Ok(());
        }
        locked::visit(&filesystem.view, &locks, &mut |visit| match (
            linked.get(&visit.item.number()),
            locks.of(visit.path, false),
        ) {
            (Some(path), Some(pattern)) if visit.item.directory().is_none() => {
                refused(path, pattern)
            }
            _ => Ok(()),
        })
    }

    fn carry_out(&self, store: &Store, staged: &Filesystem) -> Result<()> {
        let writes = self.altered.values();
        let writes = writes.filter(|altered| altered.change != Change::Remove);
        let numbers = writes.map(|_| store.numbers().next());
        let mut numbers = numbers.collect::<Result<Vec<_>>>()?;
        let mut alteration = staged.alter();
        alteration.begin();
        for (path, altered) in &self.altered {
            let mut done = alteration.remove(path);
            if let (Ok(()), Change::Write { metadata, .. }) = (&done, &altered.change) {
                done = numbers
                    .pop()
                    .ok_or(Errno::NOSPC.into())
                    .and_then(|number| alteration.put(path, number, &EMPTY, metadata));
            }
            done.map_err(|failure| failure.about(shown(path)))?;
        }
        alteration.finish();
        drop(alteration);
        for (path, altered) in &self.altered {
            if let Change::Write { bytes, .. } = &altered.change {
                write(staged, path, bytes).map_err(|failure| failure.about(shown(path)))?;
            }
        }
        Ok(())
    }
}

/// Writes to an empty file. Its content is the image's own, as at a held path it has to be.
fn write(staged: &Filesystem, path: &[u8], bytes: &[u8]) -> Outcome<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut node = staged.root().clone();
    for name in path.split(|&byte| byte == b'/') {
        node = staged.node(staged.lookup(&node, name)?.number)?;
    }
    let to_write = OpenFlags {
        write: true,
        ..OpenFlags::default()
    };
    let handle = staged.open(&node, to_write)?;
    let mut written = 0;
    while written < bytes.len() {
        let rest = &bytes[written..];
        written += staged.write(handle, written as u64, rest, SetId::Keep)?;
    }
    staged.release(handle);
    Ok(())
}
