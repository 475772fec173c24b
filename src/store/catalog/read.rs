//! What the catalog says. The same reads serve the catalog as it is ([`super::Catalog`]), one
//! instant of it ([`super::Snapshot`]) and what a transaction has made of it
//! ([`super::Transaction`]).

use rusqlite::{Connection, Params, Row, params};

use super::fault::Fault;
use super::inode_row::{decode, inode_columns, number};
use super::records::{
    Alias, Family, FamilyCounts, Image, ImageRole, NewUncover, Share, Uncover, UncoverAction,
};
use crate::error::Result;
use crate::store::digest::Digest;
use crate::store::metadata::{SharedInode, Time};
use crate::store::number::{FamilyId, ImageId, Number};

/// All rows of a query.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decode(row)?);
    }
    Ok(out)
}

/// The first row of a query.
pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(decode).transpose()
}

macro_rules! family_columns {
    () => {
        "SELECT id, name, root, base, os, os_version, architecture, share, created FROM families "
    };
}

fn family(row: &Row<'_>) -> Result<Family, Fault> {
    let id: i64 = row.get(0)?;
    let bad = |error: rusqlite::Error| Fault::row("families", id, error);
    let share: String = row.get(7).map_err(bad)?;
    Ok(Family {
        id: FamilyId(id),
        name: row.get(1).map_err(bad)?,
        root: number(row, 2, "families")?,
        base: ImageId(row.get(3).map_err(bad)?),
        os: row.get(4).map_err(bad)?,
        os_version: row.get(5).map_err(bad)?,
        architecture: row.get(6).map_err(bad)?,
        share: Share::from_name(&share)
            .ok_or_else(|| Fault::row("families", id, format!("unknown share {share:?}")))?,
        created: row.get(8).map_err(bad)?,
    })
}

macro_rules! image_columns {
    () => {
        "SELECT id, family, name, role, created, source FROM images "
    };
}

fn image(row: &Row<'_>) -> Result<Image, Fault> {
    let id: i64 = row.get(0)?;
    let bad = |error: rusqlite::Error| Fault::row("images", id, error);
    let role: String = row.get(3).map_err(bad)?;
    Ok(Image {
        id: ImageId(id),
        family: FamilyId(row.get(1).map_err(bad)?),
        name: row.get(2).map_err(bad)?,
        role: ImageRole::from_name(&role)
            .ok_or_else(|| Fault::row("images", id, format!("unknown role {role:?}")))?,
        created: row.get(4).map_err(bad)?,
        source: row.get(5).map_err(bad)?,
    })
}

fn alias(row: &Row<'_>) -> Result<Alias, Fault> {
    let shared = number(row, 0, "aliases")?;
    let bad = |error: rusqlite::Error| Fault::row("aliases", shared, error);
    Ok(Alias {
        shared,
        number: number(row, 1, "aliases")?,
        ctime: Time {
            seconds: row.get(2).map_err(bad)?,
            nanoseconds: row.get(3).map_err(bad)?,
        },
        mtime: match row.get(4).map_err(bad)? {
            Some(seconds) => Some(Time {
                seconds,
                nanoseconds: row.get(5).map_err(bad)?,
            }),
            None => None,
        },
    })
}

fn uncover(row: &Row<'_>) -> Result<Uncover, Fault> {
    let id: i64 = row.get(0)?;
    let bad = |error: rusqlite::Error| Fault::row("uncovers", id, error);
    let action: i64 = row.get(4).map_err(bad)?;
    Ok(Uncover {
        id,
        step: NewUncover {
            directory: number(row, 1, "uncovers")?,
            name: name(row, 2, "uncovers")?.into(),
            number: number(row, 3, "uncovers")?,
            action: UncoverAction::from_code(action)
                .ok_or_else(|| Fault::row("uncovers", id, format!("unknown action {action}")))?,
        },
    })
}

fn name<'a>(row: &'a Row<'_>, column: usize, table: &'static str) -> Result<&'a [u8], Fault> {
    row.get_ref(column)?
        .as_blob()
        .map_err(|error| Fault::row(table, "unknown", error))
}

/// Reading the catalog. Every method is a short query of its own; use a [`super::Snapshot`] where
/// several must agree.
///
/// # Errors
/// All methods fail where SQLite does, and for rows that cannot be decoded: the error names the
/// table and the row.
pub trait Reads {
    /// Runs `query` on a connection.
    #[doc(hidden)]
    fn with<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T>;

    /// All families, by name.
    fn families(&self) -> Result<Vec<Family>> {
        self.with(|c| all(c, concat!(family_columns!(), "ORDER BY name"), [], family))
    }

    /// The family with this id.
    fn family(&self, id: FamilyId) -> Result<Option<Family>> {
        self.with(|c| {
            first(
                c,
                concat!(family_columns!(), "WHERE id = ?1"),
                [id.0],
                family,
            )
        })
    }

    /// The family of this name.
    fn family_by_name(&self, name: &str) -> Result<Option<Family>> {
        self.with(|c| {
            first(
                c,
                concat!(family_columns!(), "WHERE name = ?1"),
                [name],
                family,
            )
        })
    }

    /// All images, base images among them, by name.
    fn images(&self) -> Result<Vec<Image>> {
        self.with(|c| all(c, concat!(image_columns!(), "ORDER BY name"), [], image))
    }

    /// The image with this id.
    fn image(&self, id: ImageId) -> Result<Option<Image>> {
        self.with(|c| first(c, concat!(image_columns!(), "WHERE id = ?1"), [id.0], image))
    }

    /// The image of this name; a family's name finds its base image.
    fn image_by_name(&self, name: &str) -> Result<Option<Image>> {
        self.with(|c| {
            first(
                c,
                concat!(image_columns!(), "WHERE name = ?1"),
                [name],
                image,
            )
        })
    }

    /// The images of a family, its base among them, by id.
    fn images_of(&self, family: FamilyId) -> Result<Vec<Image>> {
        let sql = concat!(image_columns!(), "WHERE family = ?1 ORDER BY id");
        self.with(|c| all(c, sql, [family.0], image))
    }

    /// A shared inode.
    fn inode(&self, number: Number) -> Result<Option<SharedInode>> {
        let sql = concat!(
            "SELECT ",
            inode_columns!(),
            " FROM inodes i WHERE i.number = ?1"
        );
        self.with(|c| first(c, sql, [number.get()], |row| decode(row, 0)))
    }

    /// The family that a shared inode belongs to.
    fn family_of_inode(&self, number: Number) -> Result<Option<FamilyId>> {
        let sql = "SELECT family FROM inodes WHERE number = ?1";
        self.with(|c| first(c, sql, [number.get()], |row| Ok(FamilyId(row.get(0)?))))
    }

    /// What `name` in the shared directory `parent` is.
    fn lookup(&self, parent: Number, name: &[u8]) -> Result<Option<SharedInode>> {
        let sql = concat!(
            "SELECT ",
            inode_columns!(),
            " FROM entries e JOIN inodes i ON i.number = e.number WHERE e.parent = ?1 AND e.name = ?2"
        );
        self.with(|c| first(c, sql, params![parent.get(), name], |row| decode(row, 0)))
    }

    /// A shared directory's names, sorted by their bytes; empty for a number that is none.
    fn directory(&self, number: Number) -> Result<Vec<(Box<[u8]>, SharedInode)>> {
        let sql = concat!(
            "SELECT e.name, ",
            inode_columns!(),
            " FROM entries e JOIN inodes i ON i.number = e.number WHERE e.parent = ?1 ORDER BY e.name"
        );
        self.with(|c| {
            all(c, sql, [number.get()], |row| {
                Ok((name(row, 0, "entries")?.into(), decode(row, 1)?))
            })
        })
    }

    /// Where a shared inode stands: (directory, name), in no order.
    fn names_of(&self, shared: Number) -> Result<Vec<(Number, Box<[u8]>)>> {
        let sql = "SELECT parent, name FROM entries WHERE number = ?1";
        self.with(|c| {
            all(c, sql, [shared.get()], |row| {
                Ok((number(row, 0, "entries")?, name(row, 1, "entries")?.into()))
            })
        })
    }

    /// Hands every inode of a family's shared layer to `take`, in the order of their numbers.
    fn for_each_inode(
        &self,
        family: FamilyId,
        mut take: impl FnMut(SharedInode) -> Result<()>,
    ) -> Result<()> {
        let sql = concat!(
            "SELECT ",
            inode_columns!(),
            " FROM inodes i WHERE i.family = ?1 ORDER BY i.number"
        );
        self.with(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query([family.0])?;
            while let Some(row) = rows.next()? {
                take(decode(row, 0)?)?;
            }
            Ok(())
        })
    }

    /// Hands every entry of a family's shared layer to `take` as (directory, name, number), sorted
    /// by directory and name.
    fn for_each_entry(
        &self,
        family: FamilyId,
        mut take: impl FnMut(Number, &[u8], Number) -> Result<()>,
    ) -> Result<()> {
        let sql = "SELECT e.parent, e.name, e.number FROM inodes i JOIN entries e \
                   ON e.parent = i.number WHERE i.family = ?1 AND i.kind = 4 \
                   ORDER BY i.number, e.name";
        self.with(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query([family.0])?;
            while let Some(row) = rows.next()? {
                let parent = number(row, 0, "entries")?;
                take(parent, name(row, 1, "entries")?, number(row, 2, "entries")?)?;
            }
            Ok(())
        })
    }

    /// Hands the digest and size in bytes of every shared file with content to `take`, once for
    /// each digest, sorted.
    fn for_each_digest(&self, mut take: impl FnMut(Digest, u64) -> Result<()>) -> Result<()> {
        let sql = "SELECT digest, size, number FROM inodes WHERE digest IS NOT NULL \
                   GROUP BY digest ORDER BY digest";
        self.with(|c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let number = number(row, 2, "inodes")?;
                let bad = |error: rusqlite::Error| Fault::row("inodes", number, error);
                take(
                    Digest::from_bytes(row.get(0).map_err(bad)?),
                    row.get(1).map_err(bad)?,
                )?;
            }
            Ok(())
        })
    }

    /// The shared inodes with this content, of all families.
    fn inodes_with(&self, digest: &Digest) -> Result<Vec<Number>> {
        let sql = "SELECT number FROM inodes WHERE digest = ?1 ORDER BY number";
        self.with(|c| all(c, sql, [digest.as_bytes()], |row| number(row, 0, "inodes")))
    }

    /// How much a family's shared layer holds.
    fn family_counts(&self, family: FamilyId) -> Result<FamilyCounts> {
        let inodes = "SELECT count(*), coalesce(sum(size), 0) FROM inodes WHERE family = ?1";
        let entries = "SELECT count(*) FROM inodes i JOIN entries e ON e.parent = i.number \
                       WHERE i.family = ?1 AND i.kind = 4";
        self.with(|c| {
            let (inodes, logical_bytes) = c
                .prepare_cached(inodes)?
                .query_row([family.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let entries = c
                .prepare_cached(entries)?
                .query_row([family.0], |row| row.get(0))?;
            Ok(FamilyCounts {
                inodes,
                entries,
                logical_bytes,
            })
        })
    }

    /// What an image shows under another number, sorted by shared number.
    fn aliases(&self, image: ImageId) -> Result<Vec<Alias>> {
        let sql = "SELECT shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns FROM aliases WHERE image = ?1 \
                   ORDER BY shared";
        self.with(|c| all(c, sql, [image.0], alias))
    }

    /// Under which number and ctime an image shows a shared inode, if not its own.
    fn alias_of(&self, image: ImageId, shared: Number) -> Result<Option<Alias>> {
        let sql = "SELECT shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns FROM aliases \
                   WHERE image = ?1 AND shared = ?2";
        self.with(|c| first(c, sql, params![image.0, shared.get()], alias))
    }

    /// Which shared inode an image shows under `number`, if it is an alias.
    fn alias_by_number(&self, image: ImageId, number: Number) -> Result<Option<Alias>> {
        let sql = "SELECT shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns FROM aliases \
                   WHERE image = ?1 AND number = ?2";
        self.with(|c| first(c, sql, params![image.0, number.get()], alias))
    }

    /// What is still to be uncovered in an image, in the order in which it must be done.
    fn uncovers(&self, image: ImageId) -> Result<Vec<Uncover>> {
        let sql = "SELECT id, directory, name, number, action FROM uncovers WHERE image = ?1 \
                   ORDER BY id";
        self.with(|c| all(c, sql, [image.0], uncover))
    }

    /// The paths of an image that are never folded, sorted.
    fn holds(&self, image: ImageId) -> Result<Vec<Box<[u8]>>> {
        let sql = "SELECT path FROM holds WHERE image = ?1 ORDER BY path";
        self.with(|c| all(c, sql, [image.0], |row| Ok(name(row, 0, "holds")?.into())))
    }

    /// The patterns of the paths of a family that no image may alter, in their order.
    fn locks(&self, family: FamilyId) -> Result<Vec<String>> {
        let sql = "SELECT pattern FROM locks WHERE family = ?1 ORDER BY id";
        self.with(|c| all(c, sql, [family.0], |row| Ok(row.get(0)?)))
    }

    /// The first number that is not reserved: every number in use lies below it.
    fn next_number(&self) -> Result<u64> {
        let sql = "SELECT next_number FROM counter WHERE id = 1";
        self.with(|c| {
            first(c, sql, [], |row| Ok(row.get(0)?))?
                .ok_or_else(|| Fault::row("counter", 1, "it is missing"))
        })
    }

    /// How often what private layers rely on was changed ([`crate::store::Store::commit_generation`]).
    fn generation(&self) -> Result<u64> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'generation'";
        self.with(|c| Ok(first(c, sql, [], |row| Ok(row.get(0)?))?.unwrap_or(0)))
    }

    /// The last id of an image that was ever reserved; 0 if none was.
    fn last_image_id(&self) -> Result<ImageId> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'images'";
        self.with(|c| {
            first(c, sql, [], |row| Ok(ImageId(row.get(0)?)))?
                .ok_or_else(|| Fault::row("sqlite_sequence", "images", "it is missing"))
        })
    }

    /// SQLite's own check of the database file, foreign keys included. Each finding is a line;
    /// none means sound.
    fn integrity_check(&self) -> Result<Vec<String>> {
        self.with(|c| {
            let mut findings = all(c, "PRAGMA integrity_check", [], |row| {
                Ok(row.get::<_, String>(0)?)
            })?;
            findings.retain(|finding| finding != "ok");
            findings.extend(all(c, "PRAGMA foreign_key_check", [], |row| {
                let table: String = row.get(0)?;
                let id: Option<i64> = row.get(1)?;
                let parent: String = row.get(2)?;
                let id = id.map_or(String::from("unknown"), |id| id.to_string());
                Ok(format!(
                    "table {table}, row {id}: refers to a row of {parent} that does not exist"
                ))
            })?);
            Ok(findings)
        })
    }
}
