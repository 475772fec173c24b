//! Where an image is mounted from which a guest boots.

use std::fs;
use std::path::PathBuf;

use super::super::mounts;
use super::super::session::Session;
use super::place::Place;
use crate::error::{Context, Error, Result};
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};
use crate::serve::mount_table;

/// Where the image is mounted: by others, or by us as long as the guest runs.
pub struct Root<'a> {
    session: &'a Session,
    pub image: &'a str,
    pub directory: PathBuf,
    pub is_ours: bool,
}

impl<'a> Root<'a> {
    pub fn new(session: &'a Session, image: &'a str, place: &Place, options: &str) -> Result<Self> {
        if let Some(directory) = mounted(session, image)? {
            return Ok(Self {
                session,
                image,
                directory,
                is_ours: false,
            });
        }
        let directory = place.path.join("root");
        fs::create_dir_all(&directory).about(directory.display())?;
        let root = Self {
            session,
            image,
            directory,
            is_ours: true,
        };
        mounts::mount(session, Some(image.to_owned()), &root.directory, options)?;
        Ok(root)
    }

    /// Guests go on where somebody has mounted the image for something else; but not with everything.
    pub fn say_what_keeps_guests_from_working(&self) -> Result<()> {
        if self.is_ours {
            return Ok(());
        }
        let mounts = mount_table::mounts()?;
        // The last one is what is seen there.
        let mut mounts = mounts.iter().rev();
        let Some(mount) = mounts.find(|mount| mount.point == self.directory) else {
            return Ok(());
        };
        let shown = self.directory.display();
        if mount.has("ro") {
            log::warn!("{shown} is mounted read-only: the guest cannot write");
        }
        if !mount.has("allow_other") {
            log::warn!(
                "{shown} is mounted without allow_other: users of the guest other than root will fail to make files; \
                 unmount it, and it is mounted as guests need it"
            );
        }
        Ok(())
    }

    /// Unmounts what we have mounted.
    pub fn let_go(mut self) -> Result<()> {
        self.unmount()
    }

    fn unmount(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_ours) {
            return Ok(());
        }
        mounts::unmount(self.session, &self.directory, false)?;
        fs::remove_dir(&self.directory).about(self.directory.display())
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            log::warn!("{error}");
        }
    }
}

fn mounted(session: &Session, image: &str) -> Result<Option<PathBuf>> {
    let call = Call {
        request: Request::List,
        dry_run: false,
    };
    let Report::List(list) = session.perform(&call, &*session.progress())? else {
        return Err(Error::failed(
            "list",
            "the daemon has answered something else",
        ));
    };
    let found = list.images.into_iter().find(|found| found.name == image);
    let found = found.ok_or_else(|| {
        Error::failed(format!("image {image:?}"), "there is no such image")
            .remedy("`foldfs list` shows all images")
    })?;
    let first = found.mounted.first();
    Ok(first.map(|path| path.as_path().to_owned()))
}
