//! fuser's types to and from the core's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType as FuseType, INodeNo, TimeOrNow};

use crate::filesystem::attributes::Attributes;
use crate::filesystem::failure::Failure;
use crate::filesystem::set_attributes::NewTime;
use crate::store::metadata::{FileType, Time};
use crate::store::number::Number;

/// The number in a nodeid.
pub(super) fn number(nodeid: INodeNo) -> Result<Number, Errno> {
    Number::new(nodeid.0 & (Number::END - 1)).ok_or(Errno::ESTALE)
}

/// Answers the kernel; what is not the caller's doing is logged, here and nowhere else.
pub(super) fn errno(failure: &Failure) -> Errno {
    if let Failure::Store(error) = failure {
        log::error!(error:% = error; "a request failed");
    }
    Errno::from_i32(failure.errno().raw_os_error())
}

pub(super) fn file_type(file_type: FileType) -> FuseType {
    match file_type {
        FileType::Directory => FuseType::Directory,
        FileType::Regular => FuseType::RegularFile,
        FileType::Symlink => FuseType::Symlink,
        FileType::CharDevice => FuseType::CharDevice,
        FileType::BlockDevice => FuseType::BlockDevice,
        FileType::Fifo => FuseType::NamedPipe,
        FileType::Socket => FuseType::Socket,
    }
}

fn system_time(time: Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(time.nanoseconds.into());
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}

/// What the kernel sent. fuser 0.18 turns -1.3 s, which the kernel sends as -2 s + 0.7 s, into
/// 2.7 s before 1970; taking the parts as they are undoes that.
pub(super) fn time_change(change: Option<TimeOrNow>) -> Option<NewTime> {
    Some(match change? {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(time) => NewTime::At(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: after.subsec_nanos(),
            },
            Err(before) => Time {
                seconds: 0i64.saturating_sub_unsigned(before.duration().as_secs()),
                nanoseconds: before.duration().subsec_nanos(),
            },
        }),
    })
}

/// The kernel's 32-bit device number (MKDEV of the kernel's new_encode_dev) to the host's dev_t.
pub(super) fn rdev_from_kernel(rdev: u32) -> u64 {
    let major = rdev >> 8 & 0xfff;
    let minor = rdev & 0xff | rdev >> 12 & 0xfff00;
    rustix::fs::makedev(major, minor)
}

/// The inverse of [`rdev_from_kernel`].
fn rdev_to_kernel(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.number.get()),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.file_type),
        perm: attributes.mode as u16,
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: rdev_to_kernel(attributes.rdev),
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes for an answer that tells of one entry: fuser takes the nodeid from where st_ino stands.
/// While the two differ the kernel asks for st_ino again, as it must not keep these. (In a listing it takes
/// d_ino from there, too: so of a node that has flipped a listing tells an old nodeid, which is not
/// believed for longer than the listing.)
pub(super) fn entry_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.identity.nodeid(attributes.number)),
        ..file_attr(attributes)
    }
}

/// The attributes of a negative entry, of which only the nodeid 0 counts.
pub(super) fn no_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FuseType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (259, 1 << 19)] {
            let rdev = rustix::fs::makedev(major, minor);
            assert_eq!(rdev_from_kernel(rdev_to_kernel(rdev)), rdev);
        }
    }

    #[test]
    fn times_before_1970_go_out_exact() {
        let time = Time {
            seconds: -2,
            nanoseconds: 700_000_000,
        };
        let before = UNIX_EPOCH.duration_since(system_time(time)).unwrap();
        assert_eq!(before, Duration::from_millis(1300));
    }
}
