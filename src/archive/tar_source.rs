//! A source that is a tar archive.
//!
//! ```text
//! pump (read, decompress) ──pieces──► members, tree.db ──small contents──► takers (hash, stage)
//!                                          ▲                                   │
//!                                          └─────────────digests───────────────┘
//! ```
//! Content of more than 1 MiB is taken by the thread that reads the members, as it comes.

use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use parking_lot::Mutex;

use super::export_tar::write_archive;
use super::intake::{Intake, SMALL, Taken};
use super::numbers::ImportNumbers;
use super::staged::StagedImport;
use super::staging::{Purpose, Staging};
use super::tar_field::Segments;
use super::tar_input::{self, Input};
use super::tar_member::{MemberKind, Members};
use super::tar_tree::TarTree;
use super::tree_writer::{TreeRow, TreeWriter};
use super::view_source::ViewSource;
use crate::error::{Context, Error, Result};
use crate::path_bytes::PathBytes;
use crate::progress::{Progress, Silent};
use crate::store::Store;
use crate::store::metadata::{Metadata, Time};
use crate::store::number::Number;
use crate::sys::durable;

/// Contents that may wait to be taken: each up to 1 MiB.
const QUEUE: usize = 16;

/// Stages a tar archive: a file, or standard input for `-`; plain, or compressed with gzip, xz or
/// zstd, as its first bytes say. docs/import.md says what of an archive is refused.
///
/// # Errors
/// For anything that cannot be read, written or trusted; the error names the entry. Nothing is left
/// in the store then.
pub fn import_tar(store: &Store, source: &Path, progress: &dyn Progress) -> Result<StagedImport> {
    stage_tar(store, source, Purpose::Commit, progress)
}

/// The same for a given purpose.
///
/// # Errors
/// Those of [`import_tar`].
pub fn stage_tar(
    store: &Store,
    source: &Path,
    purpose: Purpose,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    stage_input(store, Input::open(source, progress)?, purpose, progress)
}

/// Stages a tree of another store: each of its contents is read once, and one that is known here is not kept
/// twice. `name` is for messages.
///
/// # Errors
/// Those of reading it, and of staging.
pub fn stage_view(
    store: &Store,
    (source, name): (&(dyn ViewSource + Sync), &str),
    purpose: Purpose,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    let (reader, writer) = std::io::pipe().about(name)?;
    std::thread::scope(|scope| {
        // It ends when there is no reader any more.
        let written = scope.spawn(move || write_archive(source, writer, name, &Silent).map(drop));
        let staged = Input::read(name.to_owned(), Box::new(reader))
            .and_then(|input| stage_input(store, input, purpose, progress));
        let written = written.join().unwrap_or_else(|panic| resume_unwind(panic));
        match written {
            // Nobody read on: either all was read, or why it was not says more.
            Ok(())
            | Err(Error {
                errno: Some(libc::EPIPE),
                ..
            }) => staged,
            Err(error) => Err(error),
        }
    })
}

fn stage_input(
    store: &Store,
    input: Input,
    purpose: Purpose,
    progress: &dyn Progress,
) -> Result<StagedImport> {
    let staging = Staging::create(store, purpose)?;
    let intake = Intake::new(store, &staging)?;
    let numbers = ImportNumbers::new(store, purpose)?;
    let writer = TreeWriter::create(staging.path())?;
    let name = input.name.clone();
    let (sink, bytes) = tar_input::queue();
    let read = std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Err(error) = input.pump(progress, &sink) {
                sink.fail(error);
            }
        });
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let (done, results) = channel();
        for _ in 0..rayon::current_num_threads() {
            let (queue, done, intake) = (Arc::clone(&queue), done.clone(), &intake);
            scope.spawn(move || take_contents(intake, &queue, &done));
        }
        drop((queue, done));
        let mut reading = Reading {
            members: Members::new(bytes, name.clone()),
            tree: TarTree::new(writer, &numbers, Time::now())?,
            numbers: &numbers,
            intake: &intake,
            jobs,
            results,
            warnings: Vec::new(),
        };
        reading.run().map_err(|error| Error {
            object: match error.object.starts_with("entry ") {
                true => format!("{name}: {}", error.object),
                false => error.object,
            },
            ..error
        })?;
        reading.complete(staging.objects())
    });
    let (writer, root, warnings) = read?;
    StagedImport::finish(store, staging, writer, root, warnings)
}

/// A small content, whose inode waits for its digest.
struct Job {
    number: Number,
    metadata: Metadata,
    content: Vec<u8>,
}

struct Done {
    number: Number,
    metadata: Metadata,
    taken: Result<Taken>,
}

fn take_contents(intake: &Intake<'_>, queue: &Mutex<Receiver<Job>>, done: &Sender<Done>) {
    loop {
        // The guard is dropped before the content is taken.
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        let result = Done {
            number: job.number,
            metadata: job.metadata,
            taken: intake.bytes(&job.content, false),
        };
        if done.send(result).is_err() {
            return;
        }
    }
}

struct Reading<'a> {
    members: Members<tar_input::Bytes>,
    tree: TarTree<'a>,
    numbers: &'a ImportNumbers,
    intake: &'a Intake<'a>,
    jobs: SyncSender<Job>,
    results: Receiver<Done>,
    warnings: Vec<String>,
}

impl Reading<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some(member) = self.members.next()? {
            let path = &member.path[..];
            if path.starts_with(b"/") && self.warnings.is_empty() {
                let path = PathBytes::from(path);
                self.warnings.push(format!(
                    "{path}: the leading / of this and other names is removed"
                ));
            }
            if member.lost_acl && !self.warnings.iter().any(|text| text.contains("ACL")) {
                let path = PathBytes::from(path);
                self.warnings.push(format!(
                    "{path}: its ACL names users without numbers and is left out, as are those of other entries"
                ));
            }
            match member.kind {
                MemberKind::Directory => self.tree.directory(path, member.metadata)?,
                MemberKind::Link { target } => self.tree.link(path, &target)?,
                MemberKind::Special(content) => {
                    let number = self.numbers.next()?;
                    self.tree.name(path, number)?;
                    self.tree.put_inode(number, content, member.metadata)?;
                }
                MemberKind::Regular { size, segments } => {
                    let number = self.numbers.next()?;
                    self.tree.name(path, number)?;
                    self.content(path, number, member.metadata, size, segments)?;
                }
            }
            while let Ok(done) = self.results.try_recv() {
                self.settle(done)?;
            }
        }
        Ok(())
    }

    fn content(
        &mut self,
        path: &[u8],
        number: Number,
        metadata: Metadata,
        size: u64,
        segments: Option<Segments>,
    ) -> Result<()> {
        let sparse = segments.is_some();
        let mut expanded = Expanded::new(size, segments);
        let members = &mut self.members;
        let mut read = |buffer: &mut [u8]| expanded.read(buffer, |buffer| members.read(buffer));
        if size > SMALL {
            let taken = self.intake.stream(&mut read, size, sparse)?;
            let changed = || Error::failed(PathBytes::from(path), "its data has another size");
            let taken = Ok(taken.ok_or_else(changed)?);
            return self.settle(Done {
                number,
                metadata,
                taken,
            });
        }
        let mut content = vec![0; size as usize];
        let mut length = 0;
        while length < content.len() {
            match read(&mut content[length..])? {
                0 => return Err(Error::failed(PathBytes::from(path), "its data ends early")),
                more => length += more,
            }
        }
        let job = Job {
            number,
            metadata,
            content,
        };
        let stopped = |_| Error::failed("import", "the threads that take contents have stopped");
        self.jobs.send(job).map_err(stopped)
    }

    fn settle(&mut self, done: Done) -> Result<()> {
        let taken = done.taken?;
        if let (true, Some(digest)) = (taken.new, taken.digest) {
            let size = taken.size;
            self.tree.writer.insert(&TreeRow::Staged { digest, size })?;
        }
        self.tree
            .put_inode(done.number, taken.content(), done.metadata)
    }

    /// Waits for the last contents and removes what later members replaced.
    fn complete(mut self, objects: BorrowedFd<'_>) -> Result<(TreeWriter, Number, Vec<String>)> {
        // With no sender left the takers end, and with them the results.
        let (closed, _) = sync_channel(1);
        self.jobs = closed;
        while let Ok(done) = self.results.recv() {
            self.settle(done)?;
        }
        let root = self.tree.root();
        if self.tree.replaced {
            self.tree.writer.remove_unnamed(root, |digest| {
                let name = digest.to_string();
                durable::unlink(objects, name.as_bytes()).about(format!("staged object {name}"))
            })?;
        }
        Ok((self.tree.writer, root, self.warnings))
    }
}

/// A sparse file as it is read: data in its segments, zeros between them.
struct Expanded {
    position: u64,
    size: u64,
    segments: std::vec::IntoIter<(u64, u64)>,
    segment: (u64, u64),
}

impl Expanded {
    fn new(size: u64, segments: Option<Segments>) -> Self {
        let segments = segments.unwrap_or_else(|| vec![(0, size)]);
        Self {
            position: 0,
            size,
            segments: segments.into_iter(),
            segment: (0, 0),
        }
    }

    fn read(
        &mut self,
        buffer: &mut [u8],
        mut data: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        while self.position >= self.segment.0 + self.segment.1 {
            self.segment = self
                .segments
                .next()
                .unwrap_or((self.size, u64::from(u32::MAX)));
            if self.segment.0 >= self.size {
                break;
            }
        }
        let (offset, length) = self.segment;
        let (end, in_data) = match self.position < offset {
            true => (offset.min(self.size), false),
            false => (offset + length, true),
        };
        if self.position >= self.size {
            return Ok(0);
        }
        let rest = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let want = buffer.len().min(rest);
        let length = match in_data {
            true => data(&mut buffer[..want])?,
            false => {
                buffer[..want].fill(0);
                want
            }
        };
        self.position += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(size: u64, segments: &[(u64, u64)]) -> Vec<u8> {
        let mut expanded = Expanded::new(size, Some(segments.to_vec()));
        let mut next = 0;
        let mut out = Vec::new();
        let mut buffer = [9; 7];
        loop {
            let length = expanded
                .read(&mut buffer, |buffer| {
                    buffer.iter_mut().for_each(|byte| {
                        next += 1;
                        *byte = next;
                    });
                    Ok(buffer.len())
                })
                .unwrap();
            if length == 0 {
                return out;
            }
            out.extend_from_slice(&buffer[..length]);
        }
    }

    #[test]
    fn sparse_files_are_expanded() {
        assert_eq!(expand(5, &[(1, 2)]), [0, 1, 2, 0, 0]);
        assert_eq!(expand(4, &[(0, 1), (3, 1)]), [1, 0, 0, 2]);
        assert_eq!(expand(20, &[]), [0; 20]);
        assert_eq!(expand(9, &[(0, 9)]), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(expand(3, &[(1, 1), (2, 1)]), [0, 1, 2]);
        assert!(expand(0, &[]).is_empty());
    }
}
