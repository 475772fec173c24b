//! Which family a new tree belongs to: steps 104 and 106 of figure 1 of the core patent.

use crate::archive::{Identity, StagedImport};
use crate::error::Result;
use crate::store::catalog::Family;
use crate::store::metadata::Content;
use crate::store::number::Number;
use crate::store::shared::SharedLayer;

/// Of the same system and release, a tree joins from this share of equal files on; in percent.
const SAME_RELEASE: u64 = 5;
/// Of another release, or where a tree does not say what it is; in percent.
const OTHERWISE: u64 = 50;

/// How much of a tree a family's shared layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Likeness {
    /// Regular files with content that have the same path and content.
    pub equal: u64,
    /// All regular names with content.
    pub files: u64,
}

impl Likeness {
    /// Rounded down.
    pub fn percent(self) -> u64 {
        (self.equal * 100).checked_div(self.files).unwrap_or(0)
    }
}

/// A family and why the tree belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The family.
    pub family: Family,
    /// A sentence.
    pub reason: String,
}

/// How an identity is called.
pub fn describe(identity: &Identity) -> String {
    let parts = [&identity.os, &identity.os_version, &identity.architecture];
    let known: Vec<&str> = parts
        .into_iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    match known.is_empty() {
        true => String::from("an unknown system"),
        false => known.join(" "),
    }
}

/// The most similar family, if one is similar enough.
///
/// # Errors
/// Those of reading the import and the catalog.
pub fn most_similar(
    tree: &StagedImport,
    identity: &Identity,
    shared: &SharedLayer,
    families: Vec<Family>,
) -> Result<Option<Match>> {
    let mut best: Option<(bool, Likeness, Family)> = None;
    for family in families {
        let comparable =
            |ours: &str, theirs: &str| ours == theirs || ours.is_empty() || theirs.is_empty();
        if !comparable(&identity.os, &family.os)
            || !comparable(&identity.architecture, &family.architecture)
        {
            continue;
        }
        let same_release = !identity.os.is_empty()
            && identity.os == family.os
            && identity.os_version == family.os_version;
        let likeness = likeness(tree, shared, family.root)?;
        let enough = match same_release {
            true => SAME_RELEASE,
            false => OTHERWISE,
        };
        let better = best.as_ref().is_none_or(|(same, known, _)| {
            (same_release, likeness.percent()) > (*same, known.percent())
        });
        if likeness.percent() >= enough && better {
            best = Some((same_release, likeness, family));
        }
    }
    Ok(best.map(|(same_release, likeness, family)| {
        let theirs = Identity {
            os: family.os.clone(),
            os_version: family.os_version.clone(),
            architecture: family.architecture.clone(),
        };
        let system = match same_release {
            true => format!("both are {}", describe(&theirs)),
            false => format!("{} and {}", describe(identity), describe(&theirs)),
        };
        let reason = format!(
            "{system}; {} of {} files ({} %) are equal",
            likeness.equal,
            likeness.files,
            likeness.percent()
        );
        Match { family, reason }
    }))
}

/// Compares all files of a tree with a shared layer by path and content.
///
/// # Errors
/// Those of reading the import and the catalog.
pub fn likeness(tree: &StagedImport, shared: &SharedLayer, root: Number) -> Result<Likeness> {
    let mut likeness = Likeness::default();
    let mut pending = vec![(tree.root(), Some(root))];
    while let Some((directory, known)) = pending.pop() {
        let known = known.map(|known| shared.directory(known)).transpose()?;
        for (name, inode) in tree.directory(directory)? {
            let same = known.as_ref().and_then(|known| known.find(&name));
            match &inode.content {
                Content::Directory => {
                    let below = same.filter(|same| same.content == Content::Directory);
                    pending.push((inode.number, below.map(|below| below.number)));
                }
                Content::Regular { size, .. } if *size > 0 => {
                    likeness.files += 1;
                    likeness.equal +=
                        u64::from(same.is_some_and(|same| same.content == inode.content));
                }
                _ => {}
            }
        }
    }
    Ok(likeness)
}
