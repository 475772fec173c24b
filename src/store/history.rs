//! What folds did, a line for each: `run/folds.log`, and `run/folds.log.1` with what was before.
//!
//! It is for people, not for the store: nothing is synced, a crash may tear the last line, and whoever
//! cannot write it goes on without.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{self, Errno};

use super::layout;

/// A file as long as this is put aside, in place of the one before.
const BYTES: u64 = 512 << 10;

/// The lines of a store.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    run: BorrowedFd<'a>,
    bytes: u64,
}

impl<'a> History<'a> {
    /// In the directory `run/`.
    pub fn new(run: BorrowedFd<'a>) -> Self {
        Self { run, bytes: BYTES }
    }

    /// Adds a line, which has no newline in it. By one process at a time.
    ///
    /// # Errors
    /// Those of the host; there may be half a line then.
    pub fn add(&self, line: &[u8]) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        let mut file = self.open(layout::FOLD_LOG, flags)?;
        let mut size = fs::fstat(&file)?.st_size as u64;
        if size >= self.bytes {
            fs::renameat(self.run, layout::FOLD_LOG, self.run, layout::OLDER_FOLD_LOG)?;
            file = self.open(layout::FOLD_LOG, flags)?;
            size = fs::fstat(&file)?.st_size as u64;
        }
        let mut text = Vec::with_capacity(line.len() + 2);
        if is_torn(&file, size)? {
            text.push(b'\n');
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        match io::write(&file, &text)? {
            length if length == text.len() => Ok(()),
            _ => Err(Errno::NOSPC),
        }
    }

    /// All lines there are, the newest last; a torn one may be among them.
    ///
    /// # Errors
    /// Those of the host.
    pub fn lines(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let newer = self.read(layout::FOLD_LOG)?;
        let older = self.read(layout::OLDER_FOLD_LOG)?;
        // Put aside between the two.
        let older = older.filter(|(inode, _)| newer.as_ref().is_none_or(|(own, _)| own != inode));
        for (_, text) in [older, newer].into_iter().flatten() {
            let found = text.split(|&byte| byte == b'\n');
            lines.extend(found.filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
        Ok(lines)
    }

    /// Opens a file; EINVAL if it is something else, a fifo for one, which would keep us waiting.
    fn open(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(self.run, name, flags, Mode::RUSR | Mode::WUSR)?;
        match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(Errno::INVAL),
        }
    }

    /// A file's inode and the end of what is in it: all, unless others have made it longer than we do.
    /// `None` if it is not there.
    fn read(&self, name: &str) -> io::Result<Option<(u64, Vec<u8>)>> {
        let file = match self.open(name, OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let stat = fs::fstat(&file)?;
        let size = stat.st_size as u64;
        let start = size.saturating_sub(4 * self.bytes);
        let mut text = vec![0; (size - start) as usize];
        let mut length = 0;
        while length < text.len() {
            match io::pread(&file, &mut text[length..], start + length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        text.truncate(length);
        Ok(Some((stat.st_ino, text)))
    }
}

/// Whether the last line has no end.
fn is_torn(file: &OwnedFd, size: u64) -> io::Result<bool> {
    let Some(last) = size.checked_sub(1) else {
        return Ok(false);
    };
    let mut byte = [0];
    Ok(io::pread(file, &mut byte, last)? == 1 && byte != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn it_keeps_the_newest_lines_in_bounded_space() {
        let place = tempfile::tempdir().unwrap();
        let run = std::fs::File::open(place.path()).unwrap();
        let history = History {
            run: run.as_fd(),
            bytes: 100,
        };
        assert!(history.lines().unwrap().is_empty());
        for line in 0..100 {
            history.add(format!("line {line}").as_bytes()).unwrap();
        }
        let lines = history.lines().unwrap();
        let newest: Vec<Vec<u8>> = (100 - lines.len()..100)
            .map(|line| format!("line {line}").into_bytes())
            .collect();
        assert_eq!(lines, newest);
        assert!((12..=30).contains(&lines.len()), "{}", lines.len());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_file_of_ours_neither_waits_nor_fills_the_memory() {
        let place = tempfile::tempdir().unwrap();
        let run = std::fs::File::open(place.path()).unwrap();
        let history = History::new(run.as_fd());
        let path = place.path().join(layout::FOLD_LOG);
        fs::mknodat(&run, layout::FOLD_LOG, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(history.lines(), Err(Errno::INVAL));
        assert_eq!(history.add(b"line"), Err(Errno::INVAL));
        std::fs::remove_file(&path).unwrap();
        history.add(b"line").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4 << 40)
            .unwrap();
        assert_eq!(history.lines().unwrap().len(), 1);
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let place = tempfile::tempdir().unwrap();
        let run = std::fs::File::open(place.path()).unwrap();
        let history = History::new(run.as_fd());
        history.add(b"whole").unwrap();
        let path = place.path().join(layout::FOLD_LOG);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"to");
        std::fs::write(&path, text).unwrap();
        history.add(b"next").unwrap();
        assert_eq!(history.lines().unwrap(), [&b"whole"[..], b"to", b"next"]);
    }
}
