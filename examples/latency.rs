//! Does one kind of operation again and again, and says how long each took: `make bench` asks it,
//! so that what is measured is the file system, not the one who measures.
//!
//! ```text
//! latency open FILE --count N              open(2) and close(2)
//! latency create DIR --count N             create, stat and unlink N files
//! latency read|write FILE [--random]       read(2) or write(2) in blocks
//! latency map FILE [--write]               a mapping, a byte of each page
//! latency first-write FILE                 open, one byte, close
//! latency resident FILE                    bytes of the file in the page cache (mincore)
//! ```
//!
//! Prints one JSON object: `seconds` for all of it, and for each step that is repeated
//! `{"p10": …, "p50": …, "p99": …}` in nanoseconds.

// A mapping has no safe form. Its pages are touched one byte at a time as volatile, never lent as
// a slice; nobody else shortens the file meanwhile.
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAGE: usize = 4096;

/// Does one kind of operation again and again, and says how long each took.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Opens and closes a file.
    Open {
        file: PathBuf,
        #[arg(long)]
        count: usize,
    },
    /// Creates, stats and removes files.
    Create {
        directory: PathBuf,
        #[arg(long)]
        count: usize,
    },
    /// Reads a file in blocks, once through or at random.
    Read(Blocks),
    /// Writes over a file in blocks, once through or at random.
    Write(Blocks),
    /// Touches a byte of each page of a mapping.
    Map {
        file: PathBuf,
        #[arg(long)]
        write: bool,
    },
    /// Opens a file, writes one byte, and closes it.
    FirstWrite { file: PathBuf },
    /// How much of a file is in the page cache.
    Resident { file: PathBuf },
}

#[derive(clap::Args)]
struct Blocks {
    file: PathBuf,
    /// Bytes of a block.
    #[arg(long)]
    block: usize,
    /// At random places.
    #[arg(long)]
    random: bool,
    /// Blocks; without it as many as the file has.
    #[arg(long)]
    count: Option<usize>,
}

/// What each of many took, in nanoseconds.
struct Times(Vec<u64>);

impl Times {
    fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    fn time<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let done = work()?;
        self.0
            .push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Ok(done)
    }

    fn json(mut self) -> Value {
        self.0.sort_unstable();
        let at = |percent: usize| self.0.get(self.0.len() * percent / 100).copied();
        json!({ "p10": at(10), "p50": at(50), "p99": at(99) })
    }
}

/// The same sequence each time (xorshift64): what is compared does the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

fn open(file: &Path, count: usize) -> Result<Value> {
    let mut times = Times::with_capacity(count);
    let begun = Instant::now();
    for _ in 0..count {
        times.time(|| File::open(file).map(drop))?;
    }
    Ok(json!({ "seconds": begun.elapsed().as_secs_f64(), "open": times.json() }))
}

fn create(directory: &Path, count: usize) -> Result<Value> {
    let paths: Vec<_> = (0..count)
        .map(|number| directory.join(format!("file{number}")))
        .collect();
    let [mut create, mut stat, mut unlink] = [(); 3].map(|()| Times::with_capacity(count));
    let begun = Instant::now();
    for path in &paths {
        create.time(|| File::create_new(path).map(drop))?;
    }
    for path in &paths {
        stat.time(|| fs::symlink_metadata(path))?;
    }
    for path in &paths {
        unlink.time(|| fs::remove_file(path))?;
    }
    Ok(json!({
        "seconds": begun.elapsed().as_secs_f64(),
        "create": create.json(), "stat": stat.json(), "unlink": unlink.json(),
    }))
}

fn blocks(what: &Blocks, write: bool) -> Result<Value> {
    let file = OpenOptions::new()
        .read(!write)
        .write(write)
        .open(&what.file)?;
    let whole = file.metadata()?.len() / what.block as u64;
    let count = what.count.unwrap_or(usize::try_from(whole)?);
    let mut buffer = vec![0x5a; what.block];
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut times = Times::with_capacity(count);
    let begun = Instant::now();
    for number in 0..count as u64 {
        let block = match what.random {
            true => chance.below(whole),
            false => number % whole.max(1),
        };
        let at = block * what.block as u64;
        match write {
            true => times.time(|| file.write_all_at(&buffer, at))?,
            false => times.time(|| file.read_exact_at(&mut buffer, at))?,
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({ "seconds": seconds, "block": times.json() }))
}

/// A mapping of a whole file.
struct Mapping {
    address: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    fn new(file: &Path, write: bool) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(write).open(file)?;
        let length = usize::try_from(file.metadata()?.len())?;
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping at an address of the kernel's choice; checked below.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self { address, length })
    }

    fn pages(&self) -> usize {
        self.length.div_ceil(PAGE)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours alone, and nothing refers to it any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

fn map(file: &Path, write: bool) -> Result<Value> {
    let begun = Instant::now();
    let mapping = Mapping::new(file, write)?;
    let mut sum = 0_u64;
    for page in 0..mapping.pages() {
        // SAFETY: inside of the mapping, whose file nobody shortens.
        unsafe {
            let byte = mapping.address.cast::<u8>().add(page * PAGE);
            match write {
                true => byte.write_volatile(page as u8),
                false => sum += u64::from(byte.read_volatile()),
            }
        }
    }
    let pages = mapping.pages();
    drop(mapping);
    Ok(json!({ "seconds": begun.elapsed().as_secs_f64(), "pages": pages, "sum": sum }))
}

fn first_write(file: &Path) -> Result<Value> {
    let begun = Instant::now();
    let file = OpenOptions::new().write(true).open(file)?;
    file.write_all_at(b"x", 1)?;
    drop(file);
    Ok(json!({ "seconds": begun.elapsed().as_secs_f64() }))
}

fn resident(file: &Path) -> Result<Value> {
    let mapping = Mapping::new(file, false)?;
    let mut pages = vec![0_u8; mapping.pages()];
    // SAFETY: the vector has a byte for each page of the mapping.
    let done = unsafe { libc::mincore(mapping.address, mapping.length, pages.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let there = pages.iter().filter(|page| **page & 1 == 1).count();
    Ok(json!({ "bytes": there * PAGE }))
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Open { file, count } => open(&file, count),
        Command::Create { directory, count } => create(&directory, count),
        Command::Read(what) => blocks(&what, false),
        Command::Write(what) => blocks(&what, true),
        Command::Map { file, write } => map(&file, write),
        Command::FirstWrite { file } => first_write(&file),
        Command::Resident { file } => resident(&file),
    };
    match done {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}
