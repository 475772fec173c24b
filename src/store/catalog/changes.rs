//! The history of families: their changes, and the images that each was made in.

use rusqlite::{Row, params};

use super::fault::Fault;
use super::read::{Reads, all, first};
use super::transaction::Transaction;
use crate::error::Result;
use crate::store::number::{FamilyId, ImageId};

/// How a change came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Of a patch or a directory.
    Apply,
    /// Of what was done in a working tree.
    Commit,
    /// Of what was done in one that is committed as it is changed.
    Live,
    /// Of what a command did in a working tree.
    Upgrade,
    /// Of what an image has.
    Adopt,
    /// It takes back another one.
    Revert,
}

impl ChangeKind {
    const ALL: [Self; 6] = [
        Self::Apply,
        Self::Commit,
        Self::Live,
        Self::Upgrade,
        Self::Adopt,
        Self::Revert,
    ];

    /// As the catalog has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Commit => "commit",
            Self::Live => "live",
            Self::Upgrade => "upgrade",
            Self::Adopt => "adopt",
            Self::Revert => "revert",
        }
    }
}

/// A change of a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its row, and its record `changes/ID`.
    pub id: i64,
    /// The family.
    pub family: FamilyId,
    /// Seconds since 1970.
    pub time: i64,
    /// Who asked for it.
    pub who: String,
    /// How it came about.
    pub kind: ChangeKind,
    /// What it was made of, for people.
    pub source: String,
    /// What for.
    pub why: String,
    /// The change that it takes back.
    pub taken_back: Option<i64>,
    /// Its record, and all contents from before it, are kept: it can be taken back.
    pub is_kept: bool,
}

/// What of a change's record was not done in an image: positions, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Untouched {
    /// They were left as they were.
    pub positions: Vec<u32>,
    /// Directories of which only the mtime followed: the rest is the image's own.
    pub but_for_mtime: Vec<u32>,
}

/// Set in positions of [`Untouched::but_for_mtime`] as the catalog has them. A record has fewer.
const BUT_FOR_MTIME: u32 = 1 << 31;

impl Untouched {
    /// Whether a position was left as it was.
    pub fn has(&self, position: usize) -> bool {
        is_in(&self.positions, position)
    }

    /// Whether only the mtime of the directory at a position followed.
    pub fn has_but_for_mtime(&self, position: usize) -> bool {
        is_in(&self.but_for_mtime, position)
    }

    fn encode(&self) -> Vec<u8> {
        let positions = self.positions.iter().copied();
        let marked = self
            .but_for_mtime
            .iter()
            .map(|position| position | BUT_FOR_MTIME);
        positions.chain(marked).flat_map(u32::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (positions, rest) = bytes.as_chunks();
        let mut positions: Vec<u32> = positions.iter().copied().map(u32::from_le_bytes).collect();
        if !rest.is_empty() || !positions.is_sorted() {
            return None;
        }
        let marked = positions.partition_point(|position| position & BUT_FOR_MTIME == 0);
        let marked = positions.split_off(marked).into_iter();
        let but_for_mtime = marked.map(|position| position & !BUT_FOR_MTIME).collect();
        Some(Self {
            positions,
            but_for_mtime,
        })
    }
}

fn is_in(positions: &[u32], position: usize) -> bool {
    u32::try_from(position).is_ok_and(|position| positions.binary_search(&position).is_ok())
}

const COLUMNS: &str = "id, family, time, who, kind, source, why, taken_back, is_kept";

fn change(row: &Row<'_>) -> Result<Change, Fault> {
    let id: i64 = row.get(0)?;
    let bad = |error: rusqlite::Error| Fault::row("changes", id, error);
    let kind: String = row.get(4).map_err(bad)?;
    let kind = ChangeKind::ALL.into_iter().find(|it| it.as_str() == kind);
    Ok(Change {
        id,
        family: FamilyId(row.get(1).map_err(bad)?),
        time: row.get(2).map_err(bad)?,
        who: row.get(3).map_err(bad)?,
        kind: kind.ok_or_else(|| Fault::row("changes", id, "unknown kind"))?,
        source: row.get(5).map_err(bad)?,
        why: row.get(6).map_err(bad)?,
        taken_back: row.get(7).map_err(bad)?,
        is_kept: row.get(8).map_err(bad)?,
    })
}

/// Reading the history; errors are those of [`Reads`].
pub trait ChangeReads: Reads {
    /// A change.
    fn change(&self, id: i64) -> Result<Option<Change>> {
        let sql = format!("SELECT {COLUMNS} FROM changes WHERE id = ?1");
        self.with(|c| first(c, &sql, [id], change))
    }

    /// The changes of a family, in their order.
    fn changes_of(&self, family: FamilyId) -> Result<Vec<Change>> {
        let sql = format!("SELECT {COLUMNS} FROM changes WHERE family = ?1 ORDER BY id");
        self.with(|c| all(c, &sql, [family.0], change))
    }

    /// The changes of all families that are kept, in their order.
    fn kept_changes(&self) -> Result<Vec<Change>> {
        let sql = format!("SELECT {COLUMNS} FROM changes WHERE is_kept ORDER BY id");
        self.with(|c| all(c, &sql, [], change))
    }

    /// The images in which a change was made, or that are clones of such, and what it left as it was.
    fn images_of_change(&self, id: i64) -> Result<Vec<(ImageId, Untouched)>> {
        let sql = "SELECT image, untouched FROM change_images WHERE change = ?1 ORDER BY image";
        self.with(|c| {
            all(c, sql, [id], |row| {
                let image: i64 = row.get(0)?;
                let bad = |cause: String| Fault::row("change_images", image, cause);
                let bytes = row.get_ref(1)?.as_blob();
                let bytes = bytes.map_err(|error| bad(error.to_string()))?;
                let untouched = Untouched::decode(bytes);
                let untouched = untouched.ok_or_else(|| bad("no positions".into()))?;
                Ok((ImageId(image), untouched))
            })
        })
    }

    /// The id that the next change gets: never one that there was before.
    fn next_change_id(&self) -> Result<i64> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'changes'";
        self.with(|c| Ok(first(c, sql, [], |row| Ok(row.get::<_, i64>(0)?))?.unwrap_or(0) + 1))
    }
}

impl<T: Reads> ChangeReads for T {}

impl Transaction<'_> {
    /// Notes a change of a family.
    ///
    /// # Errors
    /// When its id is taken.
    pub fn add_change(&self, change: &Change) -> Result<()> {
        let sql =
            format!("INSERT INTO changes ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
        let Change {
            id,
            family,
            time,
            who,
            kind,
            source,
            why,
            taken_back,
            is_kept,
        } = change;
        let kind = kind.as_str();
        let values = params![
            id, family.0, time, who, kind, source, why, taken_back, is_kept
        ];
        self.run(&sql, values)?;
        Ok(())
    }

    /// Notes an image in which a change is made.
    ///
    /// # Errors
    /// When it is noted already.
    pub fn add_changed_image(
        &self,
        change: i64,
        image: ImageId,
        untouched: &Untouched,
    ) -> Result<()> {
        let sql = "INSERT INTO change_images (change, image, untouched) VALUES (?1, ?2, ?3)";
        self.run(sql, params![change, image.0, untouched.encode()])?;
        Ok(())
    }

    /// Notes that what is needed to take a change back is not kept any more.
    ///
    /// # Errors
    /// When there is no such change.
    pub fn forget_change(&self, id: i64) -> Result<()> {
        self.run("DELETE FROM change_images WHERE change = ?1", [id])?;
        let sql = "UPDATE changes SET is_kept = 0 WHERE id = ?1";
        self.run_one("changes", id, sql, [id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_one_form() {
        for (positions, but_for_mtime) in [
            (vec![], vec![]),
            (vec![0], vec![]),
            (vec![], vec![0, 7]),
            (vec![3, 70_000], vec![4]),
        ] {
            let untouched = Untouched {
                positions,
                but_for_mtime,
            };
            assert_eq!(Untouched::decode(&untouched.encode()), Some(untouched));
        }
        assert_eq!(Untouched::decode(&[0, 0, 0]), None);
        assert_eq!(Untouched::decode(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
