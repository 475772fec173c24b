//! A transaction's writes of families, images and what belongs to an image.

use rusqlite::params;

use super::name::check_name;
use super::read::Reads;
use super::records::{Alias, ImageRole, NewFamily, NewImage, NewUncover};
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::store::number::{FamilyId, ImageId, Number};

impl Transaction<'_> {
    /// Families and images share one set of names; a base image bears its family's.
    fn check_free(&self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.family_by_name(name)?.is_some() || self.image_by_name(name)?.is_some() {
            return Err(Error::failed(format!("name {name:?}"), "it exists already")
                .remedy("choose another name"));
        }
        Ok(())
    }

    fn existing_image(&self, id: ImageId) -> Result<super::Image> {
        self.image(id)?
            .ok_or_else(|| Error::failed(format!("image {id}"), "it does not exist"))
    }

    /// Founds a family and its base image. The inode of its root directory must be inserted in
    /// the same transaction.
    ///
    /// # Errors
    /// When the name is not allowed or taken.
    pub fn create_family(&self, family: &NewFamily<'_>) -> Result<FamilyId> {
        self.check_free(family.name)?;
        let id = FamilyId(self.insert(
            "INSERT INTO families (name, root, base, os, os_version, architecture, share, created) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                family.name,
                family.root.get(),
                family.base.0,
                family.os,
                family.os_version,
                family.architecture,
                family.share.as_str(),
                family.created,
            ],
        )?);
        self.insert_image(&NewImage {
            id: family.base,
            family: id,
            name: family.name,
            role: ImageRole::Base,
            created: family.created,
            source: family.source,
        })?;
        Ok(id)
    }

    /// Adds an image to a family.
    ///
    /// # Errors
    /// When the name is not allowed or taken, and for the role base, which only
    /// [`Transaction::create_family`] and [`Transaction::set_base`] give.
    pub fn create_image(&self, image: &NewImage<'_>) -> Result<()> {
        self.check_free(image.name)?;
        if image.role == ImageRole::Base {
            return Err(Error::failed(
                format!("image {}", image.name),
                "a family has one base only",
            ));
        }
        self.insert_image(image)
    }

    fn insert_image(&self, image: &NewImage<'_>) -> Result<()> {
        self.run(
            "INSERT INTO images (id, family, name, role, created, source) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                image.id.0,
                image.family.0,
                image.name,
                image.role.as_str(),
                image.created,
                image.source
            ],
        )?;
        Ok(())
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// When the name is not allowed or taken, the image does not exist, or it is a base image
    /// (rename its family).
    pub fn rename_image(&self, id: ImageId, name: &str) -> Result<()> {
        let image = self.existing_image(id)?;
        if image.role == ImageRole::Base {
            return Err(Error::failed(
                format!("image {}", image.name),
                "it is its family's base and bears its name",
            )
            .remedy("rename the family"));
        }
        if image.name == name {
            return Ok(());
        }
        self.check_free(name)?;
        self.set_image_name(id, name)
    }

    /// Gives a family and its base image another name.
    ///
    /// # Errors
    /// When the name is not allowed or taken, or the family does not exist.
    pub fn rename_family(&self, id: FamilyId, name: &str) -> Result<()> {
        let family = self
            .family(id)?
            .ok_or_else(|| Error::failed(format!("family {id}"), "it does not exist"))?;
        if family.name == name {
            return Ok(());
        }
        self.check_free(name)?;
        let sql = "UPDATE families SET name = ?2 WHERE id = ?1";
        self.run_one("families", id, sql, params![id.0, name])?;
        self.set_image_name(family.base, name)
    }

    fn set_image_name(&self, id: ImageId, name: &str) -> Result<()> {
        let sql = "UPDATE images SET name = ?2 WHERE id = ?1";
        self.run_one("images", id, sql, params![id.0, name])
    }

    /// Makes an image of the family its base and gives it the family's name. The former base is
    /// deleted before, in the same transaction.
    ///
    /// # Errors
    /// When the family or the image does not exist, the image is of another family, or the former
    /// base is still there.
    pub fn set_base(&self, id: FamilyId, base: ImageId) -> Result<()> {
        let family = self
            .family(id)?
            .ok_or_else(|| Error::failed(format!("family {id}"), "it does not exist"))?;
        let image = self.existing_image(base)?;
        if family.base == base {
            return Ok(());
        }
        if image.family != id {
            return Err(Error::failed(
                format!("image {}", image.name),
                format!("it does not belong to family {}", family.name),
            ));
        }
        if self.image(family.base)?.is_some() {
            return Err(Error::failed(
                format!("family {}", family.name),
                "it still has its former base",
            ));
        }
        let sql = "UPDATE families SET base = ?2 WHERE id = ?1";
        self.run_one("families", id, sql, [id.0, base.0])?;
        let sql = "UPDATE images SET name = ?2, role = 'base' WHERE id = ?1";
        self.run_one("images", base, sql, params![base.0, family.name])
    }

    /// Removes an image with its aliases, uncovers, holds and part in changes.
    ///
    /// # Errors
    /// When it does not exist. A base image can only go with its family or after
    /// [`Transaction::set_base`]: else the commit fails.
    pub fn delete_image(&self, id: ImageId) -> Result<()> {
        self.delete_aliases_of(id)?;
        self.run("DELETE FROM uncovers WHERE image = ?1", [id.0])?;
        self.run("DELETE FROM holds WHERE image = ?1", [id.0])?;
        self.run("DELETE FROM change_images WHERE image = ?1", [id.0])?;
        self.run_one("images", id, "DELETE FROM images WHERE id = ?1", [id.0])
    }

    /// Removes a family with its images, its whole shared layer, its changes and locks.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_family(&self, id: FamilyId) -> Result<()> {
        for image in self.images_of(id)? {
            self.delete_image(image.id)?;
        }
        for sql in [
            "DELETE FROM entries WHERE parent IN (SELECT number FROM inodes WHERE family = ?1)",
            "DELETE FROM inodes WHERE family = ?1",
            "DELETE FROM changes WHERE family = ?1",
            "DELETE FROM locks WHERE family = ?1",
        ] {
            self.run(sql, [id.0])?;
        }
        self.run_one("families", id, "DELETE FROM families WHERE id = ?1", [id.0])
    }

    /// Sets a family's rule of placement.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn set_share(&self, id: FamilyId, share: super::Share) -> Result<()> {
        let sql = "UPDATE families SET share = ?2 WHERE id = ?1";
        self.run_one("families", id, sql, params![id.0, share.as_str()])
    }

    /// Makes an image show `alias.shared` as the alias says, in place of what it showed it as.
    ///
    /// # Errors
    /// When the image shows another shared inode under that number.
    pub fn put_alias(&self, image: ImageId, alias: &Alias) -> Result<()> {
        self.run(
            "INSERT INTO aliases (image, shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (image, shared) DO UPDATE \
             SET number = excluded.number, ctime_s = excluded.ctime_s, \
             ctime_ns = excluded.ctime_ns, mtime_s = excluded.mtime_s, mtime_ns = excluded.mtime_ns",
            params![
                image.0,
                alias.shared.get(),
                alias.number.get(),
                alias.ctime.seconds,
                alias.ctime.nanoseconds,
                alias.mtime.map(|mtime| mtime.seconds),
                alias.mtime.map(|mtime| mtime.nanoseconds),
            ],
        )?;
        Ok(())
    }

    /// Removes an image's alias of a shared inode; whether there was one.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn delete_alias(&self, image: ImageId, shared: Number) -> Result<bool> {
        let sql = "DELETE FROM aliases WHERE image = ?1 AND shared = ?2";
        Ok(self.run(sql, params![image.0, shared.get()])? > 0)
    }

    /// Removes all aliases of an image; how many there were.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn delete_aliases_of(&self, image: ImageId) -> Result<usize> {
        self.run("DELETE FROM aliases WHERE image = ?1", [image.0])
    }

    /// Removes the aliases of a shared inode in all images; how many there were.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn delete_aliases_to(&self, shared: Number) -> Result<usize> {
        self.run("DELETE FROM aliases WHERE shared = ?1", [shared.get()])
    }

    /// Copies the aliases, holds and uncovers of one image to another (clone).
    ///
    /// # Errors
    /// When the other one has some already.
    pub fn copy_image_rows(&self, from: ImageId, to: ImageId) -> Result<()> {
        for sql in [
            "INSERT INTO aliases (image, shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns) \
             SELECT ?2, shared, number, ctime_s, ctime_ns, mtime_s, mtime_ns FROM aliases \
             WHERE image = ?1",
            "INSERT INTO holds (image, path) SELECT ?2, path FROM holds WHERE image = ?1",
            "INSERT INTO uncovers (image, directory, name, number, action) \
             SELECT ?2, directory, name, number, action FROM uncovers WHERE image = ?1 ORDER BY id",
            "INSERT INTO change_images (change, image, untouched) \
             SELECT change, ?2, untouched FROM change_images WHERE image = ?1",
        ] {
            self.run(sql, [from.0, to.0])?;
        }
        Ok(())
    }

    /// Adds a step to what is to be uncovered in an image; its id.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn add_uncover(&self, image: ImageId, step: &NewUncover) -> Result<i64> {
        self.insert(
            "INSERT INTO uncovers (image, directory, name, number, action) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                image.0,
                step.directory.get(),
                step.name,
                step.number.get(),
                step.action as i64,
            ],
        )
    }

    /// Removes a step that is done.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_uncover(&self, id: i64) -> Result<()> {
        let sql = "DELETE FROM uncovers WHERE id = ?1";
        self.run_one("uncovers", id, sql, [id])
    }

    /// Excludes a path of an image from folding; whether it was not yet.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn add_hold(&self, image: ImageId, path: &[u8]) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO holds (image, path) VALUES (?1, ?2)";
        Ok(self.run(sql, params![image.0, path])? > 0)
    }

    /// Lets a path of an image be folded again; whether it was held.
    ///
    /// # Errors
    /// Where SQLite fails.
    pub fn delete_hold(&self, image: ImageId, path: &[u8]) -> Result<bool> {
        let sql = "DELETE FROM holds WHERE image = ?1 AND path = ?2";
        Ok(self.run(sql, params![image.0, path])? > 0)
    }

    /// Has these patterns, in this order, be all that is locked in a family.
    ///
    /// # Errors
    /// When one is there twice.
    pub fn set_locks<'a>(
        &self,
        family: FamilyId,
        patterns: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        self.run("DELETE FROM locks WHERE family = ?1", [family.0])?;
        for pattern in patterns {
            let sql = "INSERT INTO locks (family, pattern) VALUES (?1, ?2)";
            self.run(sql, params![family.0, pattern])?;
        }
        Ok(())
    }
}
