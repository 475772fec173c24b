//! How a new tree joins a family: what its private layer holds over the shared layer as it is.
//!
//! A pure plan. Names whose version the shared layer has need nothing: the new image takes the
//! shared number and ctime. That the new tree tips majorities is not looked at here: placement runs
//! over the family afterwards, with the new image as one of its images.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::error::{Error, Result};
use crate::store::catalog::{Alias, Reads};
use crate::store::mark::DirectoryRole;
use crate::store::metadata::{Content, SharedInode};
use crate::store::number::Number;
use crate::store::shared::SharedLayer;

/// A tree that is to become an image. Its numbers are of the store's counter.
pub trait IncomingTree {
    /// The number of the root directory.
    fn root(&self) -> Number;
    /// An inode.
    fn inode(&self, number: Number) -> Result<Option<SharedInode>>;
    /// A directory's names, sorted by their bytes.
    fn directory(&self, number: Number) -> Result<Vec<(Box<[u8]>, SharedInode)>>;
    /// Where an inode stands: (directory, name), in no order.
    fn names_of(&self, number: Number) -> Result<Vec<(Number, Box<[u8]>)>>;
}

/// One step of building the private layer, in the order in which it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a directory and go into it.
    Enter {
        /// Its name.
        name: Box<[u8]>,
        /// Its metadata; the number is the one to show.
        inode: Box<SharedInode>,
        /// What shows through.
        role: DirectoryRole,
    },
    /// All of the directory is made: go back up.
    Leave,
    /// The shared name does not exist here.
    Whiteout {
        /// The name.
        name: Box<[u8]>,
    },
    /// An inode of one name.
    Entry {
        /// Its name.
        name: Box<[u8]>,
        /// What it is.
        inode: Box<SharedInode>,
    },
    /// A name of a file of several names, which is in [`Join::groups`].
    Name {
        /// The name.
        name: Box<[u8]>,
        /// The file.
        number: Number,
    },
}

/// The private layer of a tree that joins a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The root of the tree.
    pub root: SharedInode,
    /// What of the root comes from the shared layer.
    pub role: DirectoryRole,
    /// What is in the root.
    pub steps: Vec<Step>,
    /// Files of several names: `index/NUMBER`.
    pub groups: BTreeMap<Number, SharedInode>,
    /// Directories that differ from the shared ones in their times only: a row for each, where a
    /// private directory would cost a block.
    pub aliases: Vec<Alias>,
}

impl Join {
    /// How many private entries it makes.
    pub fn entries(&self) -> usize {
        let made = |step: &&Step| !matches!(step, Step::Leave);
        self.steps.iter().filter(made).count()
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut depth = 0;
        for step in &self.steps {
            let indent = depth * 2;
            match step {
                Step::Enter { name, role, .. } => {
                    writeln!(f, "{:indent$}{}/ {role:?}", "", name.escape_ascii())?;
                    depth += 1;
                }
                Step::Leave => depth -= 1,
                Step::Whiteout { name } => {
                    writeln!(f, "{:indent$}{} does not exist", "", name.escape_ascii())?;
                }
                Step::Entry { name, .. } => {
                    writeln!(f, "{:indent$}{}", "", name.escape_ascii())?;
                }
                Step::Name { name, number } => {
                    writeln!(f, "{:indent$}{} = {number}", "", name.escape_ascii())?;
                }
            }
        }
        Ok(())
    }
}

/// Plans what the private layer of `tree` holds over the shared layer whose root is `root`.
///
/// # Errors
/// When a directory or inode that is referred to is missing; what reading gives.
pub fn join(tree: &dyn IncomingTree, shared: &SharedLayer, root: Number) -> Result<Join> {
    let missing = |what: &str| Error::failed(what, "its root directory is missing");
    let mut planner = Planner {
        tree,
        shared,
        steps: Vec::new(),
        groups: BTreeMap::new(),
        aliases: Vec::new(),
        paths: [HashMap::new(), HashMap::new()],
        matches: HashMap::new(),
    };
    let incoming_root = tree
        .inode(tree.root())?
        .ok_or_else(|| missing("the import"))?;
    let shared_root = shared
        .inode(root)?
        .ok_or_else(|| missing("the shared layer"))?;
    planner.run(&incoming_root, &shared_root)?;
    let role = match incoming_root.metadata == shared_root.metadata {
        true => DirectoryRole::Transparent { shared: root },
        false => DirectoryRole::Merged { shared: root },
    };
    Ok(Join {
        root: incoming_root,
        role,
        steps: planner.steps,
        groups: planner.groups,
        aliases: planner.aliases,
    })
}

/// A directory on the way down.
struct Level {
    /// Where its `Enter` stands in the steps; `None` for the root.
    enter: Option<usize>,
    /// Whether its metadata, mtime aside, is that of the shared directory it stands over.
    alike: bool,
    /// Of a directory that is alike and has an mtime of its own: what to show then.
    alias: Option<Alias>,
    /// The shared directory it stands over.
    shared: Option<Number>,
    /// Its names and those of the shared directory, sorted.
    entries: std::vec::IntoIter<Pair>,
}

/// A name, what it is in the new tree and what in the shared layer.
type Pair = (Box<[u8]>, Option<SharedInode>, Option<SharedInode>);

struct Planner<'a> {
    tree: &'a dyn IncomingTree,
    shared: &'a SharedLayer,
    steps: Vec<Step>,
    groups: BTreeMap<Number, SharedInode>,
    aliases: Vec<Alias>,
    /// Paths of directories by number: of the new tree, of the shared layer.
    paths: [HashMap<Number, Vec<u8>>; 2],
    /// Whether a file of several names equals a shared one: (incoming, shared).
    matches: HashMap<(Number, Number), bool>,
}

impl Planner<'_> {
    fn run(&mut self, incoming: &SharedInode, shared: &SharedInode) -> Result<()> {
        let entries = self.pairs(incoming.number, Some(shared.number))?;
        let mut levels = vec![Level {
            enter: None,
            alike: false,
            alias: None,
            shared: Some(shared.number),
            entries,
        }];
        while let Some(level) = levels.last_mut() {
            let Some((name, incoming, shared)) = level.entries.next() else {
                let Some(level) = levels.pop() else { break };
                self.leave(&level);
                continue;
            };
            let Some(incoming) = incoming else {
                self.steps.push(Step::Whiteout { name });
                continue;
            };
            if incoming.content == Content::Directory {
                let below = shared.filter(|shared| shared.content == Content::Directory);
                levels.push(self.enter(name, incoming, below)?);
            } else if incoming.links > 1 {
                let known = match &shared {
                    Some(shared) => self.same_group(&incoming, shared)?,
                    None => false,
                };
                if !known {
                    let number = incoming.number;
                    self.groups.entry(number).or_insert(incoming);
                    self.steps.push(Step::Name { name, number });
                }
            } else if !shared.is_some_and(|shared| same_version(&incoming, &shared)) {
                let inode = Box::new(incoming);
                self.steps.push(Step::Entry { name, inode });
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        name: Box<[u8]>,
        incoming: SharedInode,
        shared: Option<SharedInode>,
    ) -> Result<Level> {
        let below = shared.as_ref().map(|shared| shared.number);
        let entries = self.pairs(incoming.number, below)?;
        let alike = shared
            .as_ref()
            .is_some_and(|shared| shared.metadata.equal_but_mtime(&incoming.metadata));
        let alias =
            shared.filter(|shared| alike && shared.metadata.mtime != incoming.metadata.mtime);
        let alias = alias.map(|shared| Alias {
            shared: shared.number,
            number: shared.number,
            ctime: incoming.ctime,
            mtime: Some(incoming.metadata.mtime),
        });
        let enter = Some(self.steps.len());
        self.steps.push(Step::Enter {
            name,
            inode: Box::new(incoming),
            role: DirectoryRole::Own,
        });
        Ok(Level {
            enter,
            alike,
            alias,
            shared: below,
            entries,
        })
    }

    fn leave(&mut self, level: &Level) {
        let Some(position) = level.enter else { return };
        self.aliases.extend(level.alias);
        if level.alike && position + 1 == self.steps.len() {
            self.steps.truncate(position);
            return;
        }
        if let (Some(shared), Some(Step::Enter { inode, role, .. })) =
            (level.shared, self.steps.get_mut(position))
        {
            // The image shows the shared directory's number, so that a private one can come and go.
            inode.number = shared;
            *role = match level.alike {
                true => DirectoryRole::Transparent { shared },
                false => DirectoryRole::Merged { shared },
            };
        }
        self.steps.push(Step::Leave);
    }

    /// The names of both directories, sorted.
    fn pairs(&self, incoming: Number, shared: Option<Number>) -> Result<std::vec::IntoIter<Pair>> {
        let mut pairs = Vec::new();
        let shared = match shared {
            Some(shared) => self.shared.directory(shared)?,
            None => {
                let incoming = self.tree.directory(incoming)?.into_iter();
                pairs.extend(incoming.map(|(name, inode)| (name, Some(inode), None)));
                return Ok(pairs.into_iter());
            }
        };
        let mut rest = shared.iter().peekable();
        for (name, inode) in self.tree.directory(incoming)? {
            while let Some((before, gone)) = rest.next_if(|(other, _)| *other < &*name) {
                pairs.push((before.into(), None, Some((**gone).clone())));
            }
            let same = rest.next_if(|(other, _)| *other == &*name);
            pairs.push((name, Some(inode), same.map(|(_, inode)| (**inode).clone())));
        }
        pairs.extend(rest.map(|(name, gone)| (name.into(), None, Some((**gone).clone()))));
        Ok(pairs.into_iter())
    }

    /// Whether two files of several names are one version: the names too.
    fn same_group(&mut self, incoming: &SharedInode, shared: &SharedInode) -> Result<bool> {
        let key = (incoming.number, shared.number);
        if let Some(known) = self.matches.get(&key) {
            return Ok(*known);
        }
        let same = incoming.links == shared.links
            && same_version(incoming, shared)
            && self.names(0, incoming.number)? == self.names(1, shared.number)?;
        self.matches.insert(key, same);
        Ok(same)
    }

    /// All paths of an inode of the new tree (0) or of the shared layer (1).
    fn names(&mut self, which: usize, number: Number) -> Result<BTreeSet<Vec<u8>>> {
        let names = self.places(which, number)?;
        let mut paths = BTreeSet::new();
        for (parent, name) in names {
            let mut path = self.directory_path(which, parent)?;
            path.push(b'/');
            path.extend_from_slice(&name);
            paths.insert(path);
        }
        Ok(paths)
    }

    fn places(&self, which: usize, number: Number) -> Result<Vec<(Number, Box<[u8]>)>> {
        match which {
            0 => self.tree.names_of(number),
            _ => self.shared.catalog().names_of(number),
        }
    }

    fn directory_path(&mut self, which: usize, directory: Number) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut current = directory;
        let mut path = loop {
            if let Some(known) = self.paths[which].get(&current) {
                break known.clone();
            }
            let Some((parent, name)) = self.places(which, current)?.into_iter().next() else {
                break Vec::new();
            };
            names.push(name);
            current = parent;
        };
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&name);
        }
        self.paths[which].insert(directory, path.clone());
        Ok(path)
    }
}

/// Whether two inodes are alike in content and metadata; names and ctime aside.
fn same_version(left: &SharedInode, right: &SharedInode) -> bool {
    (left.links > 1) == (right.links > 1)
        && left.content == right.content
        && left.metadata == right.metadata
}
