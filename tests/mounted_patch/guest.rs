//! A guest at work at the paths of a patch, who knows of each path what must be there: what the patches
//! say, of one version, or its own bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::common::mapping::Mapped;
use super::world::write;

/// The mtime of all that is in the trees.
fn time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_100_000_000)
}

/// How many paths there are.
pub const PATHS: usize = 14;

/// What a version has at a path: no two paths and no two versions alike. Some are long.
fn content(path: usize, version: usize) -> Vec<u8> {
    let times = if path.is_multiple_of(5) { 20_000 } else { 12 };
    format!("{path}:{version} ").repeat(times).into_bytes()
}

pub fn name(path: usize) -> String {
    match path % 3 {
        0 => format!("etc/{path}"),
        1 => format!("lib/{path}"),
        _ => format!("lib/below/{path}"),
    }
}

/// The tree of a version.
pub fn version(root: &Path, version: usize) {
    write(root, "etc/os-release", "ID=debian\nVERSION_ID=\"13\"\n");
    write(root, "same", "same");
    for path in 0..PATHS {
        write(root, &name(path), content(path, version));
    }
}

/// What must be at a path.
#[derive(Debug, Clone)]
enum State {
    /// A version, not older than this one.
    Version(usize),
    /// What the guest has made; `None`: nothing.
    Own(Option<Vec<u8>>),
    /// Something failed half-way.
    Unknown,
}

/// What the guest has, and has not written to yet.
enum Held {
    Open(File),
    Mapped(Mapped),
}

pub struct Worker {
    root: PathBuf,
    random: u64,
    states: Vec<State>,
    held: Option<(usize, Held)>,
    /// It writes through mappings, too.
    maps: bool,
    written: usize,
}

impl Worker {
    pub fn new(root: &Path, seed: u64, maps: bool) -> Self {
        Self {
            root: root.to_owned(),
            random: seed,
            states: vec![State::Version(0); PATHS],
            held: None,
            maps,
            written: 0,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % end as u64) as usize
    }

    fn path(&self, path: usize) -> PathBuf {
        self.root.join(name(path))
    }

    /// Bytes that nobody has written before.
    fn mine(&mut self) -> Vec<u8> {
        self.written += 1;
        format!("guest {}\n", self.written).into_bytes()
    }

    /// Looks whether what must be at a path is there.
    pub fn look(&mut self, path: usize) -> io::Result<()> {
        let found = match fs::read(self.path(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?),
        };
        match &mut self.states[path] {
            State::Unknown => {}
            State::Own(expected) => {
                let text = |bytes: &Option<Vec<u8>>| {
                    let bytes = bytes.as_deref().map(|bytes| &bytes[..bytes.len().min(100)]);
                    bytes.map(String::from_utf8_lossy).map(String::from)
                };
                let (shown, wanted) = (text(&found), text(expected));
                assert!(found == *expected, "{path}: {shown:?}, and not {wanted:?}");
            }
            State::Version(oldest) => {
                let found = found.unwrap_or_else(|| panic!("{path} is gone"));
                let start = String::from_utf8_lossy(&found[..found.len().min(20)]).into_owned();
                let version = start.split([':', ' ']).nth(1).unwrap();
                let version = version
                    .parse()
                    .unwrap_or_else(|_| panic!("{path}: {start}"));
                assert!(found == content(path, version), "{path} is mixed: {start}");
                assert!(version >= *oldest, "{path}: {version} after {oldest}");
                *oldest = version;
            }
        }
        Ok(())
    }

    /// Looks at all paths.
    pub fn look_at_all(&mut self) {
        (0..PATHS).for_each(|path| self.look(path).unwrap());
    }

    /// The versions of the paths that the guest has left alone.
    pub fn versions(&self) -> Vec<usize> {
        let versions = self.states.iter().filter_map(|state| match state {
            State::Version(version) => Some(*version),
            _ => None,
        });
        versions.collect()
    }

    /// Takes what it does not know, or has not written to, for what is there. `newest`: the version that
    /// all have been brought to.
    pub fn rest(&mut self, newest: usize) {
        if let Some((path, _)) = self.held.take() {
            self.states[path] = State::Unknown;
        }
        self.look_at_all();
        for path in 0..PATHS {
            if let State::Own(_) = self.states[path] {
                continue;
            }
            let now = fs::read(self.path(path)).ok();
            let is = |version: &usize| Some(content(path, *version)) == now;
            self.states[path] = match (0..100).find(is) {
                // An older one was kept: it was open for writing, or made when it was old already.
                Some(version) if version == newest => State::Version(version),
                _ => State::Own(now),
            };
        }
    }

    /// The paths that it has something of its own at.
    pub fn own(&self) -> Vec<String> {
        let is_own = |path: &usize| matches!(self.states[*path], State::Own(_));
        (0..PATHS).filter(is_own).map(name).collect()
    }

    /// Does something at some path, and looks whether it is there.
    pub fn work(&mut self) -> io::Result<()> {
        let path = self.below(PATHS);
        let what = self.below(24);
        if what >= 12 {
            return self.look(path);
        }
        if let Some((held, _)) = &self.held
            && *held == path
        {
            // Mostly it is held while a patch comes.
            return match self.below(16) {
                0 => self.write_to_held(),
                _ => self.look(path),
            };
        }
        let before = std::mem::replace(&mut self.states[path], State::Unknown);
        let after = self.alter(path, what, before)?;
        self.states[path] = after;
        self.look(path)
    }

    fn alter(&mut self, path: usize, what: usize, before: State) -> io::Result<State> {
        let (place, mine) = (self.path(path), self.mine());
        let is_there = !matches!(before, State::Own(None));
        Ok(match what {
            0 => {
                let new = self.root.join("new");
                fs::write(&new, &mine)?;
                fs::rename(&new, &place)?;
                State::Own(Some(mine))
            }
            1 => {
                fs::write(&place, &mine)?;
                State::Own(Some(mine))
            }
            2 if is_there => {
                fs::remove_file(&place)?;
                State::Own(None)
            }
            3..6 if is_there => {
                let mut file = File::options().append(true).open(&place)?;
                file.write_all(&mine)?;
                drop(file);
                let now = fs::read(&place)?;
                let base = now.strip_suffix(&mine[..]);
                let base = base.unwrap_or_else(|| panic!("{path}: what was appended is lost"));
                let base = base.to_vec();
                match before {
                    State::Own(before) => assert!(Some(base) == before, "{path}"),
                    State::Version(oldest) => {
                        let found = (oldest..100).any(|version| content(path, version) == base);
                        assert!(found, "{path}: no version but {base:?}");
                    }
                    State::Unknown => {}
                }
                State::Own(Some(now))
            }
            8.. if matches!(before, State::Own(_)) => {
                let newest = self.versions().into_iter().max().unwrap_or(0);
                let new = self.root.join("new");
                fs::write(&new, content(path, newest))?;
                File::options()
                    .write(true)
                    .open(&new)?
                    .set_modified(time())?;
                fs::rename(&new, &place)?;
                State::Version(newest)
            }
            6 | 7 if is_there && self.held.is_none() => {
                let file = File::options().read(true).write(true).open(&place)?;
                let now = fs::read(&place)?;
                let is_mapped = self.maps && what == 7 && now.len() >= 30;
                self.held = Some((
                    path,
                    match is_mapped {
                        true => Held::Mapped(Mapped::new(file.as_fd(), now.len(), true)?),
                        false => Held::Open(file),
                    },
                ));
                State::Own(Some(now))
            }
            _ => before,
        })
    }

    /// Overwrites the start of what it holds, as it was when it was opened.
    fn write_to_held(&mut self) -> io::Result<()> {
        let mine = self.mine();
        let Some((path, held)) = self.held.take() else {
            return Ok(());
        };
        self.look(path)?;
        let State::Own(Some(expected)) = &mut self.states[path] else {
            panic!("{path} is not its own");
        };
        let mut expected = expected.clone();
        if expected.len() < mine.len() {
            expected.resize(mine.len(), 0);
        }
        expected[..mine.len()].copy_from_slice(&mine);
        self.states[path] = State::Unknown;
        match held {
            Held::Open(mut file) => file.write_all(&mine)?,
            Held::Mapped(mapped) => mapped.store(0, &mine)?,
        }
        self.states[path] = State::Own(Some(expected));
        self.look(path)
    }
}
