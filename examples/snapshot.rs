//! What a directory tree looks like, in full: to prove that nothing looks different.
//!
//! ```text
//! snapshot record TREE > before
//! snapshot compare before after --except ino,ctime
//! snapshot hold FILE... --writing FILE     then, on standard input: check, write, or its end
//! ```
//!
//! `record` writes one JSON object a path, sorted, with everything a program can see of it but
//! atime. `hold` keeps descriptors and mappings of files open and says, whenever it is asked,
//! whether any of them looks different from when it began.

// Mapping a file has no safe form: the file may change under the mapping. That is what is looked
// for here, so the bytes are read one by one as volatile, never lent as a slice.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;

use clap::{Parser, Subcommand};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Records, compares and holds what a tree looks like.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write what every path below TREE looks like
    Record {
        /// The tree; other file systems mounted in it are left out
        tree: PathBuf,
    },
    /// Name every difference between two records; exits with 1 if there is one
    Compare {
        /// The earlier record
        before: PathBuf,
        /// The later record
        after: PathBuf,
        /// Fields that may differ
        #[arg(long, value_delimiter = ',')]
        except: Vec<String>,
    },
    /// Keep files open and mapped; see the head of this file
    Hold {
        /// Files held for reading
        files: Vec<PathBuf>,
        /// A file held for reading and writing
        #[arg(long)]
        writing: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Record { tree } => record(&tree).map(|()| true),
        Command::Compare {
            before,
            after,
            except,
        } => compare(&before, &after, &except),
        Command::Hold { files, writing } => hold(&files, &writing),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("snapshot: {error}");
            ExitCode::from(2)
        }
    }
}

/// Puts the path before an error that doesn't name it.
fn at<T, E: std::fmt::Display>(path: &Path, outcome: std::result::Result<T, E>) -> Result<T> {
    outcome.map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Names are bytes: what is not printable ASCII is written as \xNN, so that every name is itself.
fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'\\' => "\\\\".to_owned(),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn time(seconds: i64, nanoseconds: i64) -> String {
    format!("{seconds}.{nanoseconds:09}")
}

// ---- record ----

fn record(tree: &Path) -> Result<()> {
    let root = at(tree, fs::symlink_metadata(tree))?;
    let mut found = vec![(tree.to_owned(), root.clone())];
    let mut next = 0;
    while next < found.len() {
        let (path, metadata) = &found[next];
        next += 1;
        if !metadata.is_dir() || metadata.dev() != root.dev() {
            continue;
        }
        let mut below = Vec::new();
        for entry in at(path, fs::read_dir(path))? {
            let path = at(path, entry)?.path();
            let metadata = at(&path, fs::symlink_metadata(&path))?;
            below.push((path, metadata));
        }
        found.extend(below);
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));

    // The first name of each file that has several, by which its group goes.
    let mut groups: HashMap<(u64, u64), &Path> = HashMap::new();
    for (path, metadata) in &found {
        if metadata.nlink() > 1 && !metadata.is_dir() {
            groups
                .entry((metadata.dev(), metadata.ino()))
                .or_insert(path);
        }
    }

    let lines: Vec<Result<String>> = found
        .par_iter()
        .map(|(path, metadata)| {
            let below = |path: &Path| match path.strip_prefix(tree) {
                Ok(below) => format!("/{}", printable(below.as_os_str().as_bytes())),
                Err(_) => printable(path.as_os_str().as_bytes()),
            };
            let mut fields = looks(metadata);
            fields.insert("path".into(), json!(below(path)));
            fields.insert("xattrs".into(), xattrs(path)?);
            if let Some(first) = groups.get(&(metadata.dev(), metadata.ino())) {
                fields.insert("group".into(), json!(below(first)));
            }
            if metadata.is_symlink() {
                let target = at(path, fs::read_link(path))?;
                fields.insert(
                    "target".into(),
                    json!(printable(target.as_os_str().as_bytes())),
                );
            } else if metadata.is_file() {
                let file = OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(path);
                fields.insert("digest".into(), json!(at(path, digest(&at(path, file)?))?));
            }
            Ok(Value::Object(fields).to_string())
        })
        .collect();

    let mut out = BufWriter::new(io::stdout().lock());
    for line in lines {
        writeln!(out, "{}", line?)?;
    }
    out.flush()?;
    Ok(())
}

/// What stat tells, but for atime and what only says how it is stored.
fn looks(metadata: &Metadata) -> Map<String, Value> {
    let kind = metadata.file_type();
    let name = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "character device",
        () => "block device",
    };
    let mut fields = Map::new();
    fields.insert("type".into(), json!(name));
    fields.insert(
        "mode".into(),
        json!(format!("{:04o}", metadata.mode() & 0o7777)),
    );
    fields.insert("uid".into(), json!(metadata.uid()));
    fields.insert("gid".into(), json!(metadata.gid()));
    // A directory's size says how its file system stores it: a field of its own.
    let size = if kind.is_dir() { "dirsize" } else { "size" };
    fields.insert(size.into(), json!(metadata.size()));
    fields.insert("rdev".into(), json!(metadata.rdev()));
    fields.insert("nlink".into(), json!(metadata.nlink()));
    fields.insert("ino".into(), json!(metadata.ino()));
    fields.insert(
        "mtime".into(),
        json!(time(metadata.mtime(), metadata.mtime_nsec())),
    );
    fields.insert(
        "ctime".into(),
        json!(time(metadata.ctime(), metadata.ctime_nsec())),
    );
    fields
}

fn xattrs(path: &Path) -> Result<Value> {
    // The kernel's bounds of a list and of a value.
    let mut names = vec![0; 64 << 10];
    let mut value = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        outcome => at(path, outcome)?,
    };
    let mut found = Map::new();
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let got = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]);
        found.insert(printable(name), json!(hex(&value[..at(path, got)?])));
    }
    Ok(Value::Object(found))
}

fn digest(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(hex(&hash.finalize())),
            length => {
                hash.update(&buffer[..length]);
                offset += length as u64;
            }
        }
    }
}

// ---- compare ----

fn compare(before: &Path, after: &Path, except: &[String]) -> Result<bool> {
    let mut remaining = read(after)?;
    let mut differences = Vec::new();
    let mut equal = 0;
    let mut earlier: Vec<_> = read(before)?.into_iter().collect();
    earlier.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (path, old) in earlier {
        let Some(new) = remaining.remove(&path) else {
            differences.push(format!("{path}: gone"));
            continue;
        };
        let mut fields: Vec<&String> = old.keys().chain(new.keys()).collect();
        fields.sort();
        fields.dedup();
        let count = differences.len();
        for field in fields.into_iter().filter(|field| !except.contains(field)) {
            let show = |side: &Map<String, Value>| match side.get(field) {
                Some(value) => value.to_string(),
                None => "nothing".to_owned(),
            };
            if old.get(field) != new.get(field) {
                differences.push(format!(
                    "{path}: {field} was {}, is {}",
                    show(&old),
                    show(&new)
                ));
            }
        }
        equal += usize::from(differences.len() == count);
    }
    let mut added: Vec<_> = remaining.into_keys().collect();
    added.sort();
    differences.extend(added.into_iter().map(|path| format!("{path}: new")));

    const SHOWN: usize = 20;
    for difference in differences.iter().take(SHOWN) {
        println!("{difference}");
    }
    if differences.len() > SHOWN {
        println!("... and {} more", differences.len() - SHOWN);
    }
    println!("{equal} paths alike, {} differences", differences.len());
    Ok(differences.is_empty())
}

fn read(record: &Path) -> Result<HashMap<String, Map<String, Value>>> {
    let mut paths = HashMap::new();
    for line in BufReader::new(at(record, File::open(record))?).lines() {
        let fields: Map<String, Value> = at(record, serde_json::from_str(&at(record, line)?))?;
        let Some(path) = fields.get("path").and_then(Value::as_str) else {
            return Err(format!("{}: a line without a path", record.display()).into());
        };
        paths.insert(path.to_owned(), fields);
    }
    Ok(paths)
}

// ---- hold ----

/// One file, open and mapped twice: as the file is, and with a page of our own in it.
struct Held {
    path: PathBuf,
    file: File,
    looks: Map<String, Value>,
    digest: String,
    shared: Mapping,
    private: Mapping,
    private_digest: String,
}

impl Held {
    fn new(path: &Path, writing: bool) -> Result<Self> {
        let file = at(
            path,
            OpenOptions::new().read(true).write(writing).open(path),
        )?;
        let length = usize::try_from(at(path, file.metadata())?.len())?;
        if length == 0 {
            return Err(format!("{}: an empty file can't be mapped", path.display()).into());
        }
        let shared = at(path, Mapping::new(&file, length, libc::MAP_SHARED, writing))?;
        let private = at(path, Mapping::new(&file, length, libc::MAP_PRIVATE, true))?;
        // Copies the first page: it must stay ours whatever becomes of the file.
        private.set(0, !private.get(0));
        Ok(Self {
            looks: looks(&at(path, file.metadata())?),
            digest: at(path, digest(&file))?,
            private_digest: private.digest(),
            path: path.to_owned(),
            file,
            shared,
            private,
        })
    }

    /// What looks different now: through the descriptor, the path and both mappings.
    fn differences(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let path = self.path.display();
        let through = [
            ("descriptor", at(&self.path, self.file.metadata())?),
            ("path", at(&self.path, fs::metadata(&self.path))?),
        ];
        for (way, metadata) in through {
            for (field, value) in looks(&metadata) {
                if self.looks.get(&field) != Some(&value) {
                    let old = self.looks.get(&field).unwrap_or(&Value::Null);
                    found.push(format!("{path}: {field} by {way} was {old}, is {value}"));
                }
            }
        }
        let again = at(&self.path, File::open(&self.path))?;
        for (way, now, then) in [
            (
                "descriptor",
                at(&self.path, digest(&self.file))?,
                &self.digest,
            ),
            ("path", at(&self.path, digest(&again))?, &self.digest),
            ("shared mapping", self.shared.digest(), &self.digest),
            (
                "private mapping",
                self.private.digest(),
                &self.private_digest,
            ),
        ] {
            if now != *then {
                found.push(format!("{path}: other content by {way}"));
            }
        }
        Ok(found)
    }

    /// Writes through the mapping and the descriptor, and reads it back by path.
    fn write(&self) -> Result<Vec<String>> {
        let last = self.shared.length - 1;
        let first = !self.shared.get(0);
        self.shared.set(0, first);
        at(&self.path, self.shared.flush())?;
        at(&self.path, self.file.write_all_at(b"!", last as u64))?;
        let mut content = Vec::new();
        at(
            &self.path,
            at(&self.path, File::open(&self.path))?.read_to_end(&mut content),
        )?;
        let mut found = Vec::new();
        if content.first() != Some(&first) {
            found.push(format!(
                "{}: the mapping's write is lost",
                self.path.display()
            ));
        }
        if content.last() != Some(&b'!') || self.shared.get(last) != b'!' {
            found.push(format!(
                "{}: the descriptor's write is lost",
                self.path.display()
            ));
        }
        Ok(found)
    }
}

fn hold(files: &[PathBuf], writing: &[PathBuf]) -> Result<bool> {
    let read_only = files.iter().map(|path| Held::new(path, false));
    let writable = writing
        .iter()
        .map(|path| Held::new(path, true))
        .collect::<Result<Vec<_>>>()?;
    let held = read_only.collect::<Result<Vec<_>>>()?;
    println!("holding {} files", held.len() + writable.len());
    let mut all_well = true;
    for line in io::stdin().lock().lines() {
        let mut differences = Vec::new();
        match line?.as_str() {
            "check" => {
                for file in held.iter().chain(&writable) {
                    differences.extend(file.differences()?);
                }
            }
            "write" => {
                for file in &writable {
                    differences.extend(file.write()?);
                }
            }
            other => return Err(format!("'{other}' is neither check nor write").into()),
        }
        all_well &= differences.is_empty();
        match differences.as_slice() {
            [] => println!("well"),
            found => println!("{}", found.join("; ")),
        }
    }
    Ok(all_well)
}

struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(file: &File, length: usize, kind: libc::c_int, writable: bool) -> io::Result<Self> {
        let access = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), length, access, kind, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            length,
        })
    }

    fn get(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: within the mapping, which lives as long as self. Volatile: others write it too.
        unsafe { self.start.add(offset).read_volatile() }
    }

    /// Only for a mapping that was made writable.
    fn set(&self, offset: usize, byte: u8) {
        assert!(offset < self.length);
        // SAFETY: as in `get`.
        unsafe { self.start.add(offset).write_volatile(byte) }
    }

    fn flush(&self) -> io::Result<()> {
        // SAFETY: exactly this mapping.
        match unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn digest(&self) -> String {
        let content: Vec<u8> = (0..self.length).map(|offset| self.get(offset)).collect();
        hex(&Sha256::digest(content))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly this mapping, which nothing refers to any more. It can't fail for one.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
