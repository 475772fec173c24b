//! The private layer of one image: marks, numbers, stubs, whiteouts, tokens.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Findings, Fix};
use crate::error::{Context as _, Result};
use crate::merge::locate::{self, Located};
use crate::merge::view::View;
use crate::ops::context::Context;
use crate::store::catalog::{Image, Reads};
use crate::store::layer::{self, PrivateEntry};
use crate::store::layout;
use crate::store::mark::{self, DirectoryRole, Mark, Role};
use crate::store::number::Number;
use crate::sys::xattr;

const FOREIGN: &str =
    "`foldfs check --repair` moves it to quarantine/: nothing but foldfs may write there";
const RESTORE: &str = "restore the file in the image from another copy";
const ANEW: &str = "`foldfs check --repair` makes it again";

/// How often a number stands in the layer.
#[derive(Default)]
struct Places {
    entries: u32,
    tokens: u32,
    /// Where the first of the private names is.
    name: Vec<u8>,
    has_token: bool,
}

struct Checker<'a> {
    view: &'a View,
    image: &'a Image,
    next_number: u64,
    places: HashMap<Number, Places>,
    findings: &'a mut Findings,
}

/// A private directory to look into: its path in the view, and the shared part that shows through.
struct Pending {
    directory: OwnedFd,
    path: Vec<u8>,
    shared: Option<Number>,
}

pub(super) fn check(
    context: &Context,
    image: &Image,
    next_number: u64,
    findings: &mut Findings,
) -> Result<()> {
    parts(context, image, findings)?;
    let view = context.images.view(image)?;
    let mut checker = Checker {
        view: &view,
        image,
        next_number,
        places: HashMap::new(),
        findings,
    };
    checker.private()?;
    checker.index()?;
    checker.tokens();
    checker.aliases(context)?;
    for directory in view.layer.redirect_numbers()? {
        if let Located::Nowhere = locate::locate(&view, directory)? {
            log::debug!(
                "image {}: redirects/{directory} is not needed any more",
                image.name
            );
        }
    }
    Ok(())
}

/// What must be right for the image to be opened at all.
fn parts(context: &Context, image: &Image, findings: &mut Findings) -> Result<()> {
    let about = format!("images/{}", image.id);
    let name = layout::image_name(image.id);
    let root = layer::open_directory(context.store.images(), name.as_bytes(), OFlags::RDONLY);
    let root = root.about(&about).map_err(|error| {
        let lost = "restore it from a backup of the store, or remove the image";
        error.remedy(lost)
    })?;
    for part in layout::IMAGE_PARTS {
        let path = format!("{about}/{part}");
        let directory = match layer::open_directory(&root, part.as_bytes(), OFlags::RDONLY) {
            Ok(directory) => directory,
            // Nothing replaces it: an empty one would show what the guest has removed.
            Err(_) if part == layout::PRIVATE => continue,
            Err(Errno::NOENT) => {
                findings.add(&*path, "it is missing", ANEW);
                findings.fix(Fix::Directory { path: path.into() });
                continue;
            }
            Err(error) => {
                let cause = std::io::Error::from(error).to_string();
                findings.add(&*path, &*cause, FOREIGN);
                let path = path.into();
                findings.fix(Fix::Aside {
                    path,
                    cause,
                    hides: false,
                });
                continue;
            }
        };
        if part != layout::INDEX && part != layout::REDIRECTS {
            continue;
        }
        for name in layer::names_in(directory.as_fd()).about(&path)? {
            let is_token = part == layout::INDEX && layout::parse_token(&name).is_some();
            if !is_token && layout::parse_number(&name).is_none() {
                let path = [path.as_bytes(), b"/", &name].concat();
                let cause = "a name that foldfs does not make";
                findings.add(&*path, cause, FOREIGN);
                findings.fix(Fix::Aside {
                    path,
                    cause: cause.into(),
                    hides: false,
                });
            }
        }
    }
    Ok(())
}

impl Checker<'_> {
    fn object(&self, part: &[u8], path: &[u8]) -> Vec<u8> {
        let head = format!("images/{}/", self.image.id);
        [head.as_bytes(), part, path].concat()
    }

    fn add(&mut self, part: &[u8], path: &[u8], cause: impl Into<String>, remedy: &str) {
        let object = self.object(part, path);
        self.findings.add(object, cause, remedy);
    }

    fn private(&mut self) -> Result<()> {
        let about = format!("images/{}/private", self.image.id);
        let root = self.view.layer.private();
        let directory = layer::open_directory(root, b".", OFlags::PATH).about(&about)?;
        let shared = match layer::read_entry(root, b".") {
            Ok(Some(PrivateEntry::Marked { mark, .. })) => {
                let shared = match mark.role {
                    Role::Directory(role) => role.shared(),
                    _ => None,
                };
                if mark.number != Number::ROOT || shared != Some(self.view.root) {
                    self.add(b"private", b"", "its mark is not that of a root", RESTORE);
                }
                shared
            }
            _ => {
                self.add(b"private", b"", "it has no valid mark", RESTORE);
                Some(self.view.root)
            }
        };
        let mut pending = vec![Pending {
            directory,
            path: Vec::new(),
            shared,
        }];
        while let Some(current) = pending.pop() {
            let names = layer::names_in(current.directory.as_fd()).about(&about)?;
            for name in names {
                self.findings.report.entries += 1;
                let path = [&current.path[..], b"/", &name].concat();
                if let Some(below) = self.entry(&current, &name, &path)? {
                    pending.push(below);
                }
            }
        }
        Ok(())
    }

    /// One entry of a private directory; the answer is the directory to go down to.
    fn entry(&mut self, parent: &Pending, name: &[u8], path: &[u8]) -> Result<Option<Pending>> {
        let hidden = match parent.shared {
            Some(shared) => self.view.shared.directory(shared)?.find(name).cloned(),
            None => None,
        };
        let (stat, mark) = match layer::read_entry(parent.directory.as_fd(), name) {
            Ok(Some(PrivateEntry::Marked { stat, mark })) => (stat, mark),
            Ok(Some(PrivateEntry::Whiteout)) => {
                if hidden.is_none() {
                    let object = self.object(b"private", path);
                    self.findings
                        .redundant(object, "a whiteout that hides nothing");
                }
                return Ok(None);
            }
            Ok(None) => return Ok(None),
            Err(Errno::BADMSG) => {
                self.unmarked(parent, name, path, hidden.is_some())?;
                return Ok(None);
            }
            Err(error) => {
                self.add(
                    b"private",
                    path,
                    std::io::Error::from(error).to_string(),
                    RESTORE,
                );
                return Ok(None);
            }
        };
        match mark.role {
            Role::Name => {
                let object = self.object(b"private", path);
                let places = self.places.entry(mark.number).or_default();
                places.tokens += 1;
                places.name = object;
                if !self.view.is_indexed(mark.number) {
                    let cause = format!("there is no index/{} for it", mark.number);
                    self.add(b"private", path, cause, RESTORE);
                }
                Ok(None)
            }
            Role::Directory(role) => {
                self.number(b"private", path, mark.number);
                let regular = hidden.map(|inode| inode.number);
                if let Some(shared) = role.shared()
                    && regular != Some(shared)
                    && !self.view.is_redirected(shared)
                {
                    let cause = format!("there is no redirects/{shared} for it");
                    self.add(b"private", path, cause, ANEW);
                    let image = self.image.id;
                    self.findings.fix(Fix::Redirect { image, shared });
                }
                self.directory(parent, name, path, role)
            }
            Role::File | Role::Stub { .. } => {
                self.number(b"private", path, mark.number);
                self.file(b"private", path, &stat, &mark);
                if stat.st_nlink != 1 {
                    let cause = format!("the host counts {} links", stat.st_nlink);
                    self.add(b"private", path, cause, "remove the other name");
                }
                Ok(None)
            }
        }
    }

    /// An entry that foldfs did not make, or whose mark is damaged.
    fn unmarked(&mut self, parent: &Pending, name: &[u8], path: &[u8], hides: bool) -> Result<()> {
        let about = || format!("images/{}/private", self.image.id);
        let directory = parent.directory.as_fd();
        let object = self.object(b"private", path);
        if xattr::get(directory, name, mark::NAME.as_bytes())
            .about(about())?
            .is_none()
        {
            let cause = "an entry without a mark: foldfs did not make it";
            self.add(b"private", path, cause, FOREIGN);
            self.findings.fix(Fix::Aside {
                path: object,
                cause: cause.into(),
                hides,
            });
            return Ok(());
        }
        self.add(b"private", path, "its mark is damaged", RESTORE);
        if is_file_with_data(directory, name).about(about())? {
            self.findings.fix(Fix::Mark { path: object });
        }
        Ok(())
    }

    fn directory(
        &mut self,
        parent: &Pending,
        name: &[u8],
        path: &[u8],
        role: DirectoryRole,
    ) -> Result<Option<Pending>> {
        let opened = match layer::open_directory(&parent.directory, name, OFlags::PATH) {
            Ok(opened) => opened,
            Err(error) => {
                let cause = std::io::Error::from(error).to_string();
                self.add(
                    b"private",
                    path,
                    format!("its mark says directory: {cause}"),
                    RESTORE,
                );
                return Ok(None);
            }
        };
        if let Some(shared) = role.shared() {
            let inode = self.view.shared.inode(shared)?;
            if inode.is_none_or(|inode| {
                inode.content.file_type() != crate::store::metadata::FileType::Directory
            }) {
                let cause = format!("it merges with shared directory {shared}, which there is not");
                self.add(
                    b"private",
                    path,
                    cause,
                    "`foldfs check --repair` restores it from catalog.bak",
                );
            }
        }
        Ok(Some(Pending {
            directory: opened,
            path: path.to_vec(),
            shared: role.shared(),
        }))
    }

    fn number(&mut self, part: &[u8], path: &[u8], number: Number) {
        if number.get() >= self.next_number {
            self.add(
                part,
                path,
                format!("its number {number} was never handed out"),
                RESTORE,
            );
            self.findings.fix(Fix::Counter(number));
        }
        let places = self.places.entry(number).or_default();
        places.entries += 1;
        if places.entries > 1 || number == Number::ROOT {
            self.add(
                part,
                path,
                format!("its number {number} is used twice"),
                RESTORE,
            );
        }
    }

    fn file(&mut self, part: &[u8], path: &[u8], stat: &Stat, mark: &Mark) {
        if let Role::Stub { digest } = mark.role {
            let who = String::from_utf8_lossy(&self.object(part, path)).into_owned();
            if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
                self.add(part, path, "a stub that is no regular file", RESTORE);
            }
            self.findings.refer(digest, stat.st_size as u64, &who);
        }
    }

    fn index(&mut self) -> Result<()> {
        let about = format!("images/{}/index", self.image.id);
        let index = self.view.layer.index();
        for name in layer::names_in(index).about(&about)? {
            let path = [b"/", &name[..]].concat();
            if let Some(number) = layout::parse_token(&name) {
                self.token(index, number, &name, &path);
                continue;
            }
            let Some(number) = layout::parse_number(&name) else {
                continue;
            };
            match layer::read_entry(index, &name) {
                Ok(Some(PrivateEntry::Marked { stat, mark })) if mark.number == number => {
                    self.number(b"index", &path, number);
                    self.file(b"index", &path, &stat, &mark);
                }
                _ => self.add(
                    b"index",
                    &path,
                    "it has no valid mark of that number",
                    RESTORE,
                ),
            }
        }
        Ok(())
    }

    /// Names whose token is gone.
    fn tokens(&mut self) {
        let lost = |(number, places): (&Number, &Places)| {
            let lost = places.tokens > 0 && !places.has_token;
            lost.then(|| (*number, places.name.clone()))
        };
        let lost: Vec<_> = self.places.iter().filter_map(lost).collect();
        for (number, name) in lost {
            let cause = format!("there is no index/{number}.names, of which it is a link");
            self.findings.add(&*name, cause, ANEW);
            let image = self.image.id;
            self.findings.fix(Fix::Token {
                image,
                number,
                name,
            });
        }
    }

    fn token(&mut self, index: BorrowedFd<'_>, number: Number, name: &[u8], path: &[u8]) {
        let places = self.places.entry(number).or_default();
        places.has_token = true;
        let found = places.tokens;
        match layer::read_entry(index, name) {
            Ok(Some(PrivateEntry::Marked { stat, mark }))
                if mark.number == number && mark.role == Role::Name =>
            {
                let links = stat.st_nlink as u32 - 1;
                if links != found {
                    let cause =
                        format!("it has {links} links besides itself, but {found} names are found");
                    self.add(b"index", path, cause, "remove the links that are no names");
                }
            }
            _ => self.add(
                b"index",
                path,
                "it has no valid mark of that number",
                RESTORE,
            ),
        }
        if !self.view.is_indexed(number) {
            self.add(
                b"index",
                path,
                format!("there is no index/{number} for it"),
                RESTORE,
            );
        }
    }

    fn aliases(&mut self, context: &Context) -> Result<()> {
        for alias in context.store.catalog().aliases(self.image.id)? {
            let row = format!(
                "catalog.db: alias {} of image {}",
                alias.number, self.image.name
            );
            if self.view.shared.inode(alias.shared)?.is_none() {
                let cause = format!("there is no inode {}", alias.shared);
                self.findings.add(
                    row,
                    cause,
                    "`foldfs check --repair` restores it from catalog.bak",
                );
            }
        }
        Ok(())
    }
}

/// Whether it is certainly no stub: those are holes from end to end.
fn is_file_with_data(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<bool> {
    let stat = fs::statat(directory, name, fs::AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_nlink != 1 {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(directory, name, flags, Mode::empty())?;
    match fs::seek(&file, SeekFrom::Data(0)) {
        Ok(_) => Ok(true),
        Err(Errno::NXIO) => Ok(false),
        Err(error) => Err(error),
    }
}
