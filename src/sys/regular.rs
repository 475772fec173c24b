//! Regular files in directories where others work at the same time.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Result;

use super::process::descriptor_path;

/// Opens a regular file for reading; `None` if it is anything else. A device or fifo that somebody
/// puts in its place just now is not opened: that alone may do something.
///
/// # Errors
/// Those of openat(2), ENOENT for one.
pub fn open(directory: impl AsFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = fs::openat(directory, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
    fs::openat(CWD, descriptor_path(found.as_fd()), flags, Mode::empty()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        let directory = std::fs::File::open(path).unwrap();
        std::fs::write(path.join("file"), b"x").unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        fs::mknodat(&directory, "fifo", FileType::Fifo, mode, 0).unwrap();
        fs::mknodat(&directory, "socket", FileType::Socket, mode, 0).unwrap();
        assert!(open(&directory, b"file").unwrap().is_some());
        for name in ["directory", "link", "fifo", "socket"] {
            assert!(
                open(&directory, name.as_bytes()).unwrap().is_none(),
                "{name}"
            );
        }
        assert_eq!(open(&directory, b"none").unwrap_err(), Errno::NOENT);
    }
}
