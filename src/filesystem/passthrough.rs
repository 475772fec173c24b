//! Which way the content of an open file takes: through this process, or past it.
//!
//! A file is **direct** where the kernel reads, writes and maps the host's file itself (FUSE
//! passthrough), else **cached**: pages of its own that it fills and writes back through us. The kernel
//! wants all handles of an inode to be alike as long as one is open, and of one host file only
//! (fs/fuse/iomode.c). So the first open decides, and its decision stays until the last close.
//!
//! A direct reader of an object would not see what is written after a promotion, and no handle that
//! writes may have an object's registration: the kernel would open the object for writing. So who opens
//! for writing meanwhile gets another inode of the kernel's for the same file: the node **flips**. Its
//! nodeid, the number, gets another count in the top byte; asked to open the old nodeid we say ESTALE,
//! upon which the kernel looks the name up again (open(2) notices nothing). Handles at the old nodeid go
//! on reading what they opened. Objects are registered through a read-only mount besides, so that no
//! fault of ours can have one written to.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, OFlags};
use rustix::io::Errno;

use super::Filesystem;
use super::failure::Outcome;
use super::kept::{Connection, Kept, KeptFiles};
use super::ledger::Ledger;
use super::node::{Backing, Node, OpenFile, Place, Source};
use super::open::open_private;
use super::transport::{Host, Identity, Mode, Register, Registered};
use crate::store::metadata::FileType;
use crate::store::number::Number;
use crate::sys::detached::{DetachedMount, Writable};
use crate::sys::lease::ReadLease;
use crate::sys::xattr;

/// What a live image tells the kernel unasked.
pub trait Upcall: Send + Sync {
    /// Attributes of a nodeid may have changed: the kernel is to ask for them again. Takes no lock of
    /// the kernel's that a request could hold.
    fn forget_attributes(&self, nodeid: u64);
    /// A name of a directory may lead elsewhere: the kernel is to ask for it at the next look-up. Waits
    /// for requests in that directory, so that no lock may be held.
    fn forget_entry(&self, directory: u64, name: &[u8]);
    /// The attributes and the names of a directory may have changed. Likewise.
    fn forget_directory(&self, nodeid: u64);
}

/// Which way a handle's content takes.
#[derive(Debug, Clone)]
pub enum Way {
    /// Pages of the kernel's own.
    Cached {
        /// Those that it has are right.
        keep: bool,
    },
    /// The host's file.
    Direct(Registered),
}

/// What all live images of a store need for direct files.
#[derive(Debug)]
pub struct Passthrough {
    read_only: DetachedMount,
    writable: DetachedMount,
    coherent: Vec<Vec<Box<[u8]>>>,
    kept: KeptFiles,
}

impl Passthrough {
    /// For the store in a directory. What is opened for reading below a path of `coherent` (absolute,
    /// in the image) is cached, so that it sees what is written after a promotion.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.12.
    pub fn new<'a>(
        store: BorrowedFd<'_>,
        coherent: impl IntoIterator<Item = &'a [u8]>,
    ) -> rustix::io::Result<Self> {
        let names = |path: &[u8]| {
            let names = path.split(|&byte| byte == b'/');
            names
                .filter(|name| !name.is_empty())
                .map(Into::into)
                .collect()
        };
        Ok(Self {
            read_only: DetachedMount::of(store, Writable::No)?,
            writable: DetachedMount::of(store, Writable::Yes)?,
            coherent: coherent.into_iter().map(names).collect(),
            kept: KeptFiles::new(),
        })
    }

    /// Whether a file may be read while others alter it in place. One whose name is not at hand may.
    fn is_coherent(&self, node: &Arc<Node>) -> bool {
        let mut names = Vec::new();
        let mut place = node.place();
        loop {
            place = match place {
                Place::Root => break,
                Place::Index | Place::Unlinked => return true,
                Place::Entry { parent, name } => {
                    names.push(name);
                    parent.place()
                }
            };
        }
        let is_above = |path: &Vec<Box<[u8]>>| {
            path.len() <= names.len() && path.iter().zip(names.iter().rev()).all(|(a, b)| a == b)
        };
        self.coherent.iter().any(is_above)
    }
}

/// A change of a file's content that comes through a nodeid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is opened for writing.
    Open,
    /// It gets another size.
    Size,
}

impl Filesystem {
    /// From now on a transport hears what it has to tell the kernel, and files are direct where they
    /// can be. What the kernel knows is noted in `ledger`, which its nodes so far stand in, if it knows any.
    pub fn serve(
        &self,
        upcall: Arc<dyn Upcall>,
        passthrough: Option<Arc<Passthrough>>,
        ledger: Option<Arc<Ledger>>,
    ) {
        if let Some(ledger) = &ledger {
            ledger.go_on();
            self.table.note_again();
        }
        self.unused.lock().clear();
        self.table.note_in(ledger.clone());
        let before = std::mem::replace(
            &mut *self.transport.write(),
            Serving {
                upcall: Some(upcall),
                passthrough,
                connection: Some(Connection::new()),
                ledger,
            },
        );
        drop(before);
    }

    /// The kernel is gone: it has nothing open any more, and knows no node.
    pub fn disconnect(&self) {
        let before = std::mem::take(&mut *self.transport.write());
        drop(before);
        self.table.note_in(None);
        self.close_all();
        for node in self.table.all() {
            let number = node.number;
            self.done(node);
            self.forget(number, u64::MAX);
        }
    }

    fn passthrough(&self) -> Option<Arc<Passthrough>> {
        self.transport.read().passthrough.clone()
    }

    /// Where it is noted what the kernel knows.
    pub fn ledger(&self) -> Option<Arc<Ledger>> {
        self.transport.read().ledger.clone()
    }

    /// Whether a kernel has been told of the image.
    pub fn is_served(&self) -> bool {
        self.transport.read().upcall.is_some()
    }

    fn forget_attributes(&self, nodeid: u64) {
        self.tell(|upcall| upcall.forget_attributes(nodeid));
    }

    pub(super) fn tell(&self, what: impl FnOnce(&dyn Upcall)) {
        let upcall = self.transport.read().upcall.clone();
        if let Some(upcall) = upcall {
            what(&*upcall);
        }
    }

    /// Before a change of content through a nodeid: whether another nodeid is to be asked first.
    ///
    /// # Errors
    /// ESTALE: the next lookup gives the one. EPERM for what is locked, which nothing flips for.
    pub fn refuse_stale(&self, node: &Arc<Node>, flip: u8, change: Change) -> Outcome<()> {
        self.refuse_locked_now(node)?;
        let mut state = node.state.lock();
        if state.is_replaced || flip != state.identity().flip {
            return Err(Errno::STALE.into());
        }
        let old = state.flip_if(node.number, |host| match change {
            Change::Open => matches!(host, Host::Object | Host::PrivateForReading),
            Change::Size => host == Host::Object,
        })?;
        drop(state);
        match old {
            Some(old) => {
                self.forget_attributes(old);
                Err(Errno::STALE.into())
            }
            None => Ok(()),
        }
    }

    /// A file is about to be promoted, with `names` held for writing, or its object turned out to be another
    /// file by now: who has the object open directly keeps it.
    pub(super) fn leave_direct_readers(&self, node: &Arc<Node>) -> Outcome<()> {
        self.transport.read().close_kept(node.number);
        let flipped = node
            .state
            .lock()
            .flip_if(node.number, |host| host == Host::Object);
        if let Some(old) = flipped? {
            self.forget_attributes(old);
        }
        Ok(())
    }

    /// Whether a fold has to leave a file alone because of who reads it directly, since a time when
    /// somebody had it open for writing.
    pub(super) fn is_read_coherently(&self, node: &Arc<Node>) -> bool {
        node.state.lock().is_direct()
            && self
                .passthrough()
                .is_some_and(|passthrough| passthrough.is_coherent(node))
    }

    /// The way of a handle at the nodeid with this top byte, which counts as open from now on, until
    /// [`State::closed`]; and the file that is open, whatever becomes of the node's. The node has a
    /// handle, and a writer if it is opened for writing.
    ///
    /// # Errors
    /// ESTALE as from [`Filesystem::refuse_stale`].
    pub(super) fn way(
        &self,
        node: &Arc<Node>,
        flip: u8,
        write: bool,
        register: Register<'_>,
    ) -> Outcome<(Way, Arc<OpenFile>)> {
        // Folds and promotions change what is open with `names` held for writing.
        let _names = self.names.read();
        let open = self.open_now(node)?;
        let passthrough = self.passthrough();
        let mut host = match &passthrough {
            Some(passthrough) => self.direct(passthrough, node, &open, write)?,
            None => None,
        };
        let mut registered = None;
        loop {
            let mut state = node.state.lock();
            // It may have waited for a change: what is written now belongs to what has its name.
            if write && state.is_replaced || flip != state.identity().flip {
                return Err(Errno::STALE.into());
            }
            let is_in_the_way = |it| match it {
                Host::Object | Host::PrivateForReading => write,
                Host::Private => write && host != Some(Host::Private),
                Host::Written => false,
            };
            if let Some(old) = state.flip_if(node.number, is_in_the_way)? {
                drop(state);
                self.forget_attributes(old);
                return Err(Errno::STALE.into());
            }
            let transport = state.transport.get_or_insert_default();
            let mode = match (&transport.current, host, registered.take()) {
                (Some((Mode::Direct(registered, Host::Private), _)), ..) if write => {
                    Mode::Direct(registered.clone(), Host::Written)
                }
                (Some((mode, _)), ..) => mode.clone(),
                (None, Some(_), Some(registered)) if write => {
                    Mode::Direct(registered, Host::Written)
                }
                (None, Some(host), Some(registered)) => Mode::Direct(registered, host),
                (None, None, _) => Mode::Cached,
                (None, Some(wanted), None) => {
                    drop(state);
                    registered = self.registered(node, wanted, &open, register);
                    host = host.filter(|_| registered.is_some());
                    continue;
                }
            };
            let handles = transport
                .current
                .as_ref()
                .map_or(0, |(_, handles)| *handles);
            transport.current = Some((mode.clone(), handles + 1));
            let way = match mode {
                Mode::Direct(registered, _) => Way::Direct(registered),
                Mode::Cached => Way::Cached {
                    keep: !transport.stale_pages,
                },
            };
            let forget = match &way {
                Way::Direct(_) if write => {
                    transport.stale_pages = true;
                    !std::mem::replace(&mut transport.volatile, true)
                }
                _ => false,
            };
            let nodeid = state.identity().nodeid(node.number);
            state.note();
            drop(state);
            if forget {
                self.forget_attributes(nodeid);
            }
            return Ok((way, open));
        }
    }

    /// A host file as registered with the kernel, now or before; that of a shared file is kept.
    fn registered(
        &self,
        node: &Arc<Node>,
        host: Host,
        open: &Arc<OpenFile>,
        register: Register<'_>,
    ) -> Option<Registered> {
        let serving = self.transport.read();
        let kept = serving.kept(node.number);
        if let Some(kept) = kept.filter(|kept| Arc::ptr_eq(&kept.open, open)) {
            return Some(kept.registered);
        }
        let registered = serving.passthrough.as_ref()?;
        let registered = registered.register(host, open, register)?;
        let ledger = serving.ledger.as_ref();
        let record = ledger.and_then(|ledger| ledger.add_registered(registered.id()));
        let registered = registered.noted(record);
        if host == Host::Object && matches!(node.source(), Source::Shared(_)) {
            let kept = Kept {
                open: open.clone(),
                registered: registered.clone(),
            };
            serving.keep(node.number, kept);
        }
        Some(registered)
    }

    /// What is kept open of a shared file's object. It may be another one's by now.
    pub(super) fn kept_open(&self, node: &Arc<Node>) -> Option<Arc<OpenFile>> {
        let kept = self.transport.read().kept(node.number)?;
        Some(kept.open)
    }

    /// Closes what nobody has open: see [`super::kept`].
    pub fn close_kept(&self) {
        if let Some(passthrough) = self.passthrough() {
            passthrough.kept.close_all();
        }
    }

    /// How the kernel is to know a private node. Once nobody has the file open for writing, or mapped
    /// writable, which a read lease tells, it may keep attributes again. With `names` held.
    pub(super) fn private_identity(&self, node: &Arc<Node>) -> Outcome<Identity> {
        let identity = node.state.lock().identity();
        let written_to = || node.writers.load(Ordering::SeqCst) > 0;
        if !identity.volatile || node.file_type != FileType::Regular || written_to() {
            return Ok(identity);
        }
        let Some(host) = self.host(node)? else {
            return Ok(identity);
        };
        // Where it cannot be told, it stays as it is: stat(2) must not fail for it.
        let lease = open_private(self, &host, OFlags::RDONLY).map(ReadLease::take);
        if let Ok(Ok(Some(_lease))) = lease {
            let mut state = node.state.lock();
            // Who opens it for writing counts as a writer before the node becomes volatile.
            if !written_to() {
                state.settle();
            }
            return Ok(state.identity());
        }
        Ok(identity)
    }

    /// Which host file a handle could have, were it the first one; `None` if it is to be cached.
    fn direct(
        &self,
        passthrough: &Passthrough,
        node: &Arc<Node>,
        open: &OpenFile,
        write: bool,
    ) -> Outcome<Option<Host>> {
        if !write && (passthrough.is_coherent(node) || node.state.lock().may_not_flip()) {
            return Ok(None);
        }
        if let Backing::Object { size, .. } = open.backing {
            // Who writes promotes with the first write, if there is one.
            return Ok((!write && size > 0).then_some(Host::Object));
        }
        let mode = fs::fstat(&open.file)?.st_mode;
        let is_plain = mode & (libc::S_ISUID | libc::S_ISGID) == 0
            && !open.shown_times.load(Ordering::Acquire)
            && xattr::get_descriptor(open.file.as_fd(), CAPABILITY)?.is_none();
        Ok(match (is_plain, write) {
            (true, _) => Some(Host::Private),
            (false, false) => Some(Host::PrivateForReading),
            (false, true) => None,
        })
    }
}

/// What a write clears (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

impl Passthrough {
    /// `None` where the host or the kernel cannot: the file is cached then.
    fn register(&self, host: Host, open: &OpenFile, register: Register<'_>) -> Option<Registered> {
        let mount = match host {
            Host::Object => &self.read_only,
            Host::PrivateForReading | Host::Private | Host::Written => &self.writable,
        };
        let file = mount.reopen(open.file.as_fd());
        let file = file.map_err(std::io::Error::from);
        match file.and_then(|file| register(file.as_fd())) {
            Ok(registered) => Some(registered),
            Err(error) => {
                log::debug!(error:% = error; "a file cannot be passed through");
                None
            }
        }
    }
}

/// Who serves a live image, and how.
#[derive(Default)]
pub(super) struct Serving {
    upcall: Option<Arc<dyn Upcall>>,
    passthrough: Option<Arc<Passthrough>>,
    connection: Option<Connection>,
    ledger: Option<Arc<Ledger>>,
}

impl Serving {
    fn kept(&self, number: Number) -> Option<Kept> {
        self.passthrough
            .as_ref()?
            .kept
            .get(self.connection?, number)
    }

    fn keep(&self, number: Number, kept: Kept) {
        if let (Some(passthrough), Some(connection)) = (&self.passthrough, self.connection) {
            passthrough.kept.keep(connection, number, kept);
        }
    }

    fn close_kept(&self, number: Number) {
        if let (Some(passthrough), Some(connection)) = (&self.passthrough, self.connection) {
            passthrough.kept.close(connection, number);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let (Some(passthrough), Some(connection)) = (&self.passthrough, self.connection) {
            passthrough.kept.close_connection(connection);
        }
    }
}
