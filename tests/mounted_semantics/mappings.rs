//! Mappings, and programs that run: both use the page cache of a file that may be promoted under
//! them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::common::mapping::{Mapped, Sharing, truncate_path};
use super::places::{Files, Places, Probe, tell};

const LENGTH: usize = 9_000;

fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// What a mapping shows at some places.
fn shown(mapped: &Mapped) -> String {
    let bytes = mapped.load();
    let at = |offset: usize| bytes.get(offset..offset + 5).map(<[u8]>::escape_ascii);
    let pieces = [0, 100, 4_090, 5_000, 8_995].map(|offset| match at(offset) {
        Some(piece) => piece.to_string(),
        None => String::from("-"),
    });
    format!("{} of {} bytes", pieces.join(" "), bytes.len())
}

const MAPPINGS: [(&str, Probe); 7] = [
    ("shared-sees-writes", |path| {
        let early = File::open(path)?;
        let mapped = Mapped::new(early.as_fd(), LENGTH, false)?;
        let before = shown(&mapped);
        writer(path)?.write_all_at(b"first", 100)?;
        writer(path)?.write_all_at(b"again", 5_000)?;
        Ok(format!("{before}; {}", shown(&mapped)))
    }),
    ("shared-sees-other-mappings", |path| {
        let early = File::open(path)?;
        let mapped = Mapped::new(early.as_fd(), LENGTH, false)?;
        let file = writer(path)?;
        let writable = Mapped::new(file.as_fd(), LENGTH, true)?;
        drop(file);
        writable.store(4_090, b"mapped across")?;
        let mut read = [0; 13];
        early.read_exact_at(&mut read, 4_090)?;
        Ok(format!("{}; {}", shown(&mapped), read.escape_ascii()))
    }),
    ("stores-and-writes-mix", |path| {
        let file = writer(path)?;
        let mapped = Mapped::new(file.as_fd(), LENGTH, true)?;
        mapped.store(0, b"store")?;
        file.write_all_at(b"wr", 2)?;
        mapped.store(100, b"more!")?;
        drop(file);
        let bytes = fs::read(path)?;
        Ok(format!(
            "{} {} {}",
            bytes[..8].escape_ascii(),
            bytes[98..108].escape_ascii(),
            shown(&mapped)
        ))
    }),
    ("private-sees-writes-to-untouched-pages", |path| {
        let early = File::open(path)?;
        let mapped = Mapped::of(early.as_fd(), LENGTH, true, Sharing::Private)?;
        mapped.store(100, b"mine!")?;
        let file = writer(path)?;
        file.write_all_at(b"yours", 0)?;
        file.write_all_at(b"yours", 5_000)?;
        let mut read = [0; 5];
        early.read_exact_at(&mut read, 100)?;
        Ok(format!("{}; {}", shown(&mapped), read.escape_ascii()))
    }),
    ("behind-the-end", |path| {
        let file = writer(path)?;
        let mapped = Mapped::new(file.as_fd(), LENGTH, true)?;
        file.set_len(4_096)?;
        let shorter = shown(&mapped);
        let refused = tell(
            mapped
                .store(5_000, b"x")
                .map(|()| String::new())
                .map_err(Into::into),
        );
        file.set_len(LENGTH as u64)?;
        Ok(format!("{shorter}; {refused}; {}", shown(&mapped)))
    }),
    ("replaced-and-removed", |path| {
        let early = File::open(path)?;
        let mapped = Mapped::new(early.as_fd(), LENGTH, false)?;
        let new = path.with_file_name("replaced-and-removed.new");
        fs::write(&new, "another file")?;
        fs::rename(&new, path)?;
        let replaced = shown(&mapped);
        let content = fs::read_to_string(path)?;
        Ok(format!("{replaced}; {content}; {}", shown(&mapped)))
    }),
    ("write-needs-permission", |path| {
        let file = File::open(path)?;
        let shared = Mapped::new(file.as_fd(), LENGTH, true).map(|_| String::new());
        Ok(tell(shared.map_err(Into::into)))
    }),
];

#[test]
fn mappings_show_what_a_plain_directory_shows() {
    let test = "mappings_show_what_a_plain_directory_shows";
    let Some(places) = Places::new(test, &Files::of(&MAPPINGS, LENGTH as u32)) else {
        return;
    };
    places.assert_same(&MAPPINGS);
    places.finish();
}

/// A program that waits until it is killed.
struct Running(Child);

impl Running {
    fn new(path: &Path) -> io::Result<Running> {
        let mut command = Command::new(Path::new(".").join(path));
        command.arg("600").stdin(Stdio::null());
        command.spawn().map(Running)
    }

    /// Whether it is still there.
    fn runs(&mut self) -> io::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const PROGRAMS: [(&str, Probe); 8] = [
    ("open-for-writing", |path| {
        let _running = Running::new(path)?;
        writer(path).map(|_| String::new())
    }),
    ("open-truncate", |path| {
        let _running = Running::new(path)?;
        File::create(path).map(|_| String::new())
    }),
    ("truncate", |path| {
        let _running = Running::new(path)?;
        truncate_path(path, 10)?;
        Ok(String::new())
    }),
    ("written-after-the-end", |path| {
        drop(Running::new(path)?);
        writer(path)?.write_all_at(b"\x7fELF", 0)?;
        let mut running = Running::new(path)?;
        Ok(format!("{}", running.runs()?))
    }),
    ("started-while-open-for-writing", |path| {
        let _writer = writer(path)?;
        let mut running = Running::new(path)?;
        Ok(format!("{}", running.runs()?))
    }),
    ("started-while-open-for-reading", |path| {
        let _reader = File::open(path)?;
        let mut running = Running::new(path)?;
        Ok(format!("{}", running.runs()?))
    }),
    ("replaced-while-it-runs", |path| {
        let mut running = Running::new(path)?;
        let new = path.with_file_name("replaced-while-it-runs.new");
        fs::copy(path, &new)?;
        fs::rename(&new, path)?;
        let other = writer(path).is_ok();
        Ok(format!("{} {other}", running.runs()?))
    }),
    ("restated-while-it-runs", |path| {
        let mut running = Running::new(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        let refused = tell(writer(path).map(|_| String::new()));
        Ok(format!("{} {refused}", running.runs()?))
    }),
];

#[test]
fn running_programs_and_writers_exclude_each_other() {
    let files = Files {
        names: PROGRAMS.map(|(name, _)| String::from(name)).to_vec(),
        length: 10,
        adorn: &|path| {
            if !path.exists() || path.metadata().unwrap().len() < 1_000 {
                fs::copy("/bin/sleep", path).unwrap();
            }
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        },
        ..Files::default()
    };
    let test = "running_programs_and_writers_exclude_each_other";
    let Some(places) = Places::new(test, &files) else {
        return;
    };
    places.assert_same(&PROGRAMS);
    places.finish();
}
