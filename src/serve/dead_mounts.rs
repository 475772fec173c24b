//! Mounts that a daemon left behind when it was killed: nobody answers for them, and only
//! unmounting helps.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::UnmountFlags;

use super::fuse::left::Left;
use super::mount_table::{self, FILE_SYSTEM_TYPE, Mount};
use crate::error::{Context, Error, Result};
use crate::ops::report::{MountReport, MountedImage, Report};

/// Unmounts what `store`'s last daemon left on `directory` or directly below it. To be called only
/// when no daemon serves the store. In use or not: whoever uses it gets errors only.
///
/// # Errors
/// There is none; the kernel's.
pub fn unmount(store: &Path, directory: &Path, dry_run: bool) -> Result<Report> {
    let dead = left_by(store, mount_table::mounts()?);
    let exact = dead.iter().any(|(mount, _)| mount.point == directory);
    let mut mounts = Vec::new();
    // The last one first: mounts may lie upon each other.
    for (mount, image) in dead.into_iter().rev() {
        let meant = if exact {
            mount.point == directory
        } else {
            mount.point.parent() == Some(directory)
        };
        if !meant {
            continue;
        }
        if !dry_run {
            rustix::mount::unmount(&mount.point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .about(mount.point.display())?;
        }
        mounts.push(MountedImage {
            image,
            directory: mount.point.into(),
        });
    }
    if mounts.is_empty() {
        return Err(Error::failed(
            directory.display(),
            "no image of this store is mounted there",
        )
        .remedy("`foldfs list` shows what is mounted where"));
    }
    mounts.reverse();
    Ok(Report::Unmount(MountReport { mounts }))
}

/// Unmounts all that `store`'s last daemon left, wherever, but for what the next one takes over: as it starts.
///
/// # Errors
/// The kernel's.
pub fn clear(store: &Path, taken_over: &[Left]) -> Result<()> {
    let dead = left_by(store, mount_table::mounts()?);
    let devices: HashSet<Vec<u8>> = taken_over
        .iter()
        .flat_map(|left| devices_of(left, &dead))
        .collect();
    for (mount, image) in dead.into_iter().rev() {
        if devices.contains(&mount.device) {
            continue;
        }
        let point = mount.point.display();
        log::warn!("{point}: unmounting {image}, whose daemon was killed");
        rustix::mount::unmount(&mount.point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .about(point)?;
    }
    Ok(())
}

/// The devices that may be a mount's that is taken over. Somebody may have bound a part of it elsewhere, and have
/// unmounted the whole: then all that show its image are spared.
fn devices_of(left: &Left, mounts: &[(Mount, String)]) -> Vec<Vec<u8>> {
    let of_image = mounts.iter().map(|(mount, _)| mount);
    let of_image = of_image.filter(|mount| mount.source == left.source());
    match of_image.clone().rfind(|it| it.point == left.directory()) {
        Some(mount) => vec![mount.device.clone()],
        None => of_image.map(|mount| mount.device.clone()).collect(),
    }
}

/// Unmounts what nobody will serve any more, if it is still where it was mounted and nothing else lies on it.
///
/// # Errors
/// The kernel's.
pub fn unmount_left(left: &Left) -> Result<()> {
    let mounts = mount_table::mounts()?;
    let top = mounts.iter().rfind(|it| it.point == left.directory());
    if left.is_there() && top.is_some_and(|it| it.source == left.source()) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(left.directory(), flags).about(left.directory().display())?;
    }
    Ok(())
}

/// The mounts that show images of `store`, each with the name that its image had.
fn left_by(store: &Path, mounts: Vec<Mount>) -> Vec<(Mount, String)> {
    let prefix = mount_table::source_of(store, "");
    let image = |mount: &Mount| {
        let name = mount.source.strip_prefix(prefix.as_bytes())?;
        String::from_utf8(name.to_vec()).ok()
    };
    mounts
        .into_iter()
        .filter(|mount| mount.file_system == FILE_SYSTEM_TYPE.as_bytes())
        .filter_map(|mount| image(&mount).map(|name| (mount, name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_views_of_this_store() {
        let mount = |file_system: &str, source: &str| Mount {
            point: "/mnt".into(),
            device: b"0:40".to_vec(),
            file_system: file_system.into(),
            source: source.into(),
            options: Default::default(),
        };
        let mounts = vec![
            mount("ext4", "/s#web"),
            mount(FILE_SYSTEM_TYPE, "/s2#web"),
            mount(FILE_SYSTEM_TYPE, "/s#web"),
            mount(FILE_SYSTEM_TYPE, "/s"),
        ];
        let found = left_by(Path::new("/s"), mounts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, "web");
    }

    #[test]
    fn nothing_there_is_an_error() {
        let error = unmount(Path::new("/s"), Path::new("/nowhere"), false).unwrap_err();
        assert!(error.cause.contains("no image"), "{error}");
    }
}
