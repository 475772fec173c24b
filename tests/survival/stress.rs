//! Random operations in a directory, each of which must do just what it does in any directory; what is there is kept
//! in memory beside it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::common::killer::Random;
use super::common::mapping::Mapped;

/// Of the files that a directory has at the start.
pub const SHARED: usize = 60;

/// Unlinked files that are held open, at most.
const HELD: usize = 6;

/// One mark of a file.
const MARK: &str = "user.mark";

/// Fills the directory of a worker with files, before it is imported.
pub fn furnish(place: &Path) {
    fs::create_dir_all(place).unwrap();
    for number in 0..SHARED {
        fs::write(place.join(shared_name(number)), shared_content(number)).unwrap();
    }
}

fn shared_name(number: usize) -> String {
    format!("shared{number}")
}

fn shared_content(number: usize) -> Vec<u8> {
    Random(number as u64).bytes(number * 977 % 30_000)
}

#[derive(Debug, Clone, Default)]
struct Inode {
    content: Vec<u8>,
    mode: u32,
    mark: Option<Vec<u8>>,
    links: u64,
}

/// Who works in a directory of its own.
#[derive(Debug)]
pub struct Worker {
    place: PathBuf,
    random: Random,
    names: BTreeMap<String, usize>,
    inodes: Vec<Inode>,
    held: VecDeque<(File, Vec<u8>)>,
    made: usize,
}

#[track_caller]
fn refused<T: Debug, E: Into<io::Error>>(result: Result<T, E>, errno: Errno, what: &str) {
    let error = result.map_err(Into::into).expect_err(what);
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{what}");
}

impl Worker {
    /// In a directory that [`furnish`] filled, or an empty one.
    pub fn new(place: PathBuf, seed: u64, is_furnished: bool) -> Worker {
        fs::create_dir_all(&place).unwrap();
        let mut worker = Worker {
            place,
            random: Random(seed),
            names: BTreeMap::new(),
            inodes: Vec::new(),
            held: VecDeque::new(),
            made: 0,
        };
        if is_furnished {
            for number in 0..SHARED {
                worker.is_made(shared_name(number), shared_content(number));
            }
        }
        worker
    }

    fn is_made(&mut self, name: String, content: Vec<u8>) {
        let inode = Inode {
            content,
            mode: 0o644,
            mark: None,
            links: 1,
        };
        self.names.insert(name, self.inodes.len());
        self.inodes.push(inode);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("new{}", self.made)
    }

    fn any(&mut self) -> (String, PathBuf, usize) {
        let nth = self.random.below(self.names.len());
        let (name, &inode) = self.names.iter().nth(nth).unwrap();
        let name = name.clone();
        let path = self.at(&name);
        (name, path, inode)
    }

    fn any_content(&mut self) -> Vec<u8> {
        let length = [0, 10, 5000, 150_000][self.random.below(4)];
        self.random.bytes(length)
    }

    fn is_unlinked(&mut self, name: &str) -> usize {
        let inode = self.names.remove(name).unwrap();
        self.inodes[inode].links -= 1;
        inode
    }

    /// One operation.
    pub fn step(&mut self) {
        let what = match self.names.len() {
            0..5 => 0,
            200.. => 3,
            _ => self.random.below(24),
        };
        let step = [
            Self::create,
            Self::append,
            Self::write,
            Self::unlink,
            Self::rename,
            Self::exchange,
            Self::rename_over,
            Self::rename_if_free,
            Self::directory,
            Self::symbolic_link,
            Self::marks,
            Self::read,
            Self::link,
            Self::truncate,
            Self::unlink_held,
            Self::list,
            Self::mode,
            Self::map,
            Self::empty,
            Self::replace,
            Self::look_at_held,
            Self::copy,
            Self::punch,
            Self::node,
        ];
        step[what](self);
    }

    fn create(&mut self) {
        let (name, content) = (self.new_name(), self.any_content());
        let path = self.at(&name);
        let mut file = File::create_new(&path).expect("create");
        file.write_all(&content).expect("write of a new file");
        drop(file);
        refused(File::create_new(&path), Errno::EXIST, "create again");
        self.is_made(name, content);
    }

    fn append(&mut self) {
        let (_, path, inode) = self.any();
        let more = self.random.bytes(100);
        let mut file = OpenOptions::new().append(true).open(path).expect("open");
        file.write_all(&more).expect("append");
        self.inodes[inode].content.extend(more);
    }

    fn write(&mut self) {
        let (_, path, inode) = self.any();
        let bytes = self.random.bytes(700);
        let content = &mut self.inodes[inode].content;
        let offset = self.random.below(content.len() + 1);
        let file = OpenOptions::new().write(true).open(path).expect("open");
        file.write_all_at(&bytes, offset as u64).expect("write");
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }

    fn unlink(&mut self) {
        let (name, path, _) = self.any();
        fs::remove_file(&path).expect("unlink");
        refused(fs::remove_file(&path), Errno::NOENT, "unlink again");
        self.is_unlinked(&name);
    }

    fn rename(&mut self) {
        let (name, path, inode) = self.any();
        let new = self.new_name();
        fs::rename(&path, self.at(&new)).expect("rename");
        refused(fs::metadata(&path), Errno::NOENT, "the old name");
        self.names.remove(&name);
        self.names.insert(new, inode);
    }

    fn exchange(&mut self) {
        let ((a, one, first), (b, two, second)) = (self.any(), self.any());
        rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).expect("exchange");
        self.names.insert(a, second);
        self.names.insert(b, first);
    }

    fn rename_over(&mut self) {
        let ((a, one, first), (b, two, second)) = (self.any(), self.any());
        fs::rename(one, two).expect("rename over");
        if first != second {
            self.is_unlinked(&b);
            self.names.remove(&a);
            self.names.insert(b, first);
        }
    }

    fn rename_if_free(&mut self) {
        let ((name, one, inode), (_, two, _)) = (self.any(), self.any());
        let flags = RenameFlags::NOREPLACE;
        let onto = rustix::fs::renameat_with(CWD, &one, CWD, &two, flags);
        refused(onto, Errno::EXIST, "rename onto something");
        let new = self.new_name();
        rustix::fs::renameat_with(CWD, &one, CWD, self.at(&new), flags).expect("rename to nothing");
        self.names.remove(&name);
        self.names.insert(new, inode);
    }

    fn directory(&mut self) {
        let (name, moved) = (self.new_name(), self.new_name());
        let (path, moved) = (self.at(&name), self.at(&moved));
        fs::create_dir(&path).expect("mkdir");
        refused(fs::create_dir(&path), Errno::EXIST, "mkdir again");
        fs::write(path.join("inner"), &name).expect("write in it");
        refused(fs::remove_dir(&path), Errno::NOTEMPTY, "rmdir");
        fs::rename(&path, &moved).expect("rename of a directory");
        assert_eq!(
            fs::read(moved.join("inner")).expect("moved"),
            name.as_bytes()
        );
        fs::remove_file(moved.join("inner")).expect("unlink in it");
        fs::remove_dir(&moved).expect("rmdir");
        refused(fs::remove_dir(&moved), Errno::NOENT, "rmdir again");
    }

    fn symbolic_link(&mut self) {
        let name = self.new_name();
        let path = self.at(&name);
        let target = "x".repeat(1 + self.random.below(200));
        symlink(&target, &path).expect("symlink");
        assert_eq!(fs::read_link(&path).expect("readlink"), Path::new(&target));
        refused(symlink(&target, &path), Errno::EXIST, "symlink again");
        fs::remove_file(&path).expect("unlink of a symlink");
    }

    fn marks(&mut self) {
        let (_, path, inode) = self.any();
        let value = self.random.bytes(20);
        let set = |value: &[u8]| rustix::fs::setxattr(&path, MARK, value, XattrFlags::CREATE);
        match &self.inodes[inode].mark {
            Some(old) => {
                refused(set(&value), Errno::EXIST, "setxattr");
                refused(set(old), Errno::EXIST, "setxattr of the same");
                rustix::fs::removexattr(&path, MARK).expect("removexattr");
                self.inodes[inode].mark = None;
            }
            None => {
                let removed = rustix::fs::removexattr(&path, MARK);
                refused(removed, Errno::NODATA, "removexattr");
                set(&value).expect("setxattr");
                self.inodes[inode].mark = Some(value);
            }
        }
    }

    fn read(&mut self) {
        let (name, ..) = self.any();
        self.assert_as_it_should_be(&name);
    }

    fn link(&mut self) {
        let (_, path, inode) = self.any();
        let new = self.new_name();
        let link = self.at(&new);
        fs::hard_link(&path, &link).expect("link");
        refused(fs::hard_link(&path, &link), Errno::EXIST, "link again");
        self.names.insert(new, inode);
        self.inodes[inode].links += 1;
        let links = fs::metadata(&path).expect("stat").nlink();
        assert_eq!(links, self.inodes[inode].links, "links");
    }

    fn truncate(&mut self) {
        let (_, path, inode) = self.any();
        let content = &mut self.inodes[inode].content;
        let length = self.random.below(content.len() + 1000);
        super::common::mapping::truncate_path(&path, length as u64).expect("truncate");
        content.resize(length, 0);
    }

    fn unlink_held(&mut self) {
        let (name, path, _) = self.any();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.expect("open");
        fs::remove_file(path).expect("unlink of an open file");
        let inode = self.is_unlinked(&name);
        if self.inodes[inode].links == 0 {
            self.held
                .push_back((file, self.inodes[inode].content.clone()));
        }
        if self.held.len() > HELD {
            self.held.pop_front();
        }
    }

    fn look_at_held(&mut self) {
        let Some((file, content)) = self.held.front_mut() else {
            return;
        };
        let found = file.metadata().expect("fstat");
        assert_eq!((found.nlink(), found.len()), (0, content.len() as u64));
        let mut read = vec![0; content.len()];
        file.read_exact_at(&mut read, 0)
            .expect("read of an unlinked file");
        assert!(read == *content, "an unlinked file has changed");
        file.write_all_at(b"more", content.len() as u64)
            .expect("write");
        content.extend(b"more");
        self.held.rotate_left(1);
    }

    fn list(&mut self) {
        let entries = fs::read_dir(&self.place).expect("opendir");
        let names = entries.map(|entry| entry.expect("readdir").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.into_string().expect("a name"))
            .collect();
        names.sort();
        let expected: Vec<_> = self.names.keys().cloned().collect();
        assert_eq!(expected, names, "a listing");
    }

    fn mode(&mut self) {
        let (_, path, inode) = self.any();
        let mode = [0o600, 0o644, 0o755, 0o4755][self.random.below(4)];
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        self.inodes[inode].mode = mode;
        // The next write would take it away again.
        if mode == 0o4755 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).expect("chmod again");
            self.inodes[inode].mode = 0o700;
        }
    }

    fn map(&mut self) {
        let (_, path, inode) = self.any();
        let content = &mut self.inodes[inode].content;
        if content.len() < 10 {
            return;
        }
        let bytes = self.random.bytes(10);
        let offset = self.random.below(content.len() - 9);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.expect("open");
        let mapped = Mapped::new(file.as_fd(), content.len(), true).expect("mmap");
        drop(file);
        mapped.store(offset, &bytes).expect("store");
        content[offset..offset + 10].copy_from_slice(&bytes);
        let mut found = mapped.load();
        found.truncate(content.len());
        assert!(found == *content, "through a mapping");
    }

    fn empty(&mut self) {
        let (_, path, inode) = self.any();
        let content = self.any_content();
        fs::write(path, &content).expect("write anew");
        self.inodes[inode].content = content;
    }

    fn replace(&mut self) {
        let (name, path, _) = self.any();
        let (new, content) = (self.new_name(), self.any_content());
        let mut file = File::create_new(self.at(&new)).expect("create");
        file.write_all(&content).expect("write");
        file.sync_all().expect("fsync");
        fs::rename(self.at(&new), path).expect("replace");
        self.is_unlinked(&name);
        self.is_made(name, content);
    }

    fn copy(&mut self) {
        let (_, path, inode) = self.any();
        let name = self.new_name();
        fs::copy(path, self.at(&name)).expect("copy");
        let Inode { content, mode, .. } = self.inodes[inode].clone();
        let copied = self.inodes.len();
        self.is_made(name, content);
        self.inodes[copied].mode = mode;
    }

    fn punch(&mut self) {
        let (_, path, inode) = self.any();
        let content = &mut self.inodes[inode].content;
        let file = OpenOptions::new().write(true).open(path).expect("open");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 100, 5000).expect("fallocate");
        let (start, end) = (100.min(content.len()), 5100.min(content.len()));
        content[start..end].fill(0);
    }

    fn node(&mut self) {
        let name = self.new_name();
        let path = self.at(&name);
        let make = || {
            rustix::fs::mknodat(
                CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o640),
                0,
            )
        };
        make().expect("mknod");
        assert_eq!(fs::metadata(&path).expect("stat").mode(), 0o10640);
        refused(make(), Errno::EXIST, "mknod again");
        fs::remove_file(&path).expect("unlink of a fifo");
    }

    fn assert_as_it_should_be(&self, name: &str) {
        let (path, inode) = (self.at(name), &self.inodes[self.names[name]]);
        let found = fs::metadata(&path).expect("stat");
        let expected = (0o100_000 | inode.mode, inode.content.len() as u64);
        assert_eq!(expected, (found.mode(), found.len()), "{name}");
        assert_eq!(inode.links, found.nlink(), "links of {name}");
        let content = fs::read(&path).expect("read");
        assert!(content == inode.content, "{name} has changed");
        let mut value = [0; 64];
        let mark = match rustix::fs::getxattr(&path, MARK, &mut value[..]) {
            Ok(length) => Some(value[..length].to_vec()),
            Err(Errno::NODATA) => None,
            Err(errno) => panic!("getxattr of {name}: {errno}"),
        };
        assert_eq!(inode.mark, mark, "the mark of {name}");
    }

    /// Expects all to be as it should be.
    pub fn look(&mut self) {
        self.list();
        for name in self.names.keys() {
            self.assert_as_it_should_be(name);
        }
        (0..self.held.len()).for_each(|_| self.look_at_held());
    }

    /// Closes what has no name any more.
    pub fn let_go(&mut self) {
        self.held.clear();
    }
}
