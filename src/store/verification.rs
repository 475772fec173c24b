//! Which objects are known to be damaged, and how many of those that are opened are verified first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::content::digest_of;
use super::digest::Digest;
use crate::error::{Context, Error, Result};

/// A share of the objects, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate(u32);

impl Rate {
    /// None of them.
    pub const NEVER: Rate = Rate(0);
    /// All of them, however large.
    pub const ALWAYS: Rate = Rate(1_000_000);

    /// A share from 0 to 1; `None` for other numbers.
    pub fn new(share: f64) -> Option<Self> {
        let allowed = (0.0..=1.0).contains(&share);
        allowed.then(|| Rate((share * 1e6).ceil() as u32))
    }
}

/// What a share leaves out: content of more bytes. No part of a file can be verified without all
/// of it, and a guest that opens it would wait. [`Rate::ALWAYS`] asks for just that.
const LARGE: u64 = 64 << 20;

/// What this process knows about objects. A leaf lock.
#[derive(Default)]
pub struct Verification {
    rate: AtomicU32,
    /// Chooses the objects; another one in each process, so that in time each has its turn.
    chosen: RandomState,
    verified: Mutex<HashSet<Digest>>,
    damaged: Mutex<BTreeMap<Digest, String>>,
    /// `damaged` is not empty: all that the usual read looks at.
    any_damaged: AtomicBool,
    /// Which objects have got another file, and the epoch that began with it.
    replaced: Mutex<HashMap<Digest, u64>>,
    epoch: AtomicU64,
}

impl Verification {
    /// From now on, so many of the objects that are opened are read through and compared with
    /// their digest first, each once.
    pub fn set_rate(&self, rate: Rate) {
        self.rate.store(rate.0, Ordering::Relaxed);
    }

    /// Whether any open could take long.
    pub fn is_on(&self) -> bool {
        self.rate.load(Ordering::Relaxed) > 0
    }

    /// Refuses an object that was found damaged; to be asked before anything is read of it.
    ///
    /// # Errors
    /// With EIO, what is wrong with it.
    pub fn refuse_damaged(&self, digest: &Digest) -> Result<()> {
        if !self.any_damaged.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.damaged.lock().get(digest) {
            Some(cause) => Err(damaged(digest, cause)),
            None => Ok(()),
        }
    }

    /// Looks at an object that is being opened: its size, and its content if it is its turn.
    ///
    /// # Errors
    /// With EIO, what is wrong with it; wrong content is remembered. Errors of reading.
    pub fn examine(&self, file: BorrowedFd<'_>, digest: &Digest, size: u64) -> Result<()> {
        check_size(file, digest, size)?;
        if !self.is_on() || !self.is_chosen(digest, size) {
            return Ok(());
        }
        if self.verified.lock().contains(digest) {
            return Ok(());
        }
        self.verify(file, digest)
    }

    /// [`Verification::examine`] of an object whose turn it is.
    ///
    /// # Errors
    /// As there.
    pub fn examine_all(&self, file: BorrowedFd<'_>, digest: &Digest, size: u64) -> Result<()> {
        self.refuse_damaged(digest)?;
        check_size(file, digest, size)?;
        self.verify(file, digest)
    }

    fn verify(&self, file: BorrowedFd<'_>, digest: &Digest) -> Result<()> {
        let found = digest_of(file).about(format!("object {digest}"))?;
        if found == *digest {
            self.verified.lock().insert(*digest);
            return Ok(());
        }
        let cause = "its content does not have its digest";
        self.is_damaged(digest, cause);
        Err(damaged(digest, cause))
    }

    fn is_chosen(&self, digest: &Digest, size: u64) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        rate >= Rate::ALWAYS.0
            || size <= LARGE && self.chosen.hash_one(digest.as_bytes()) % 1_000_000 < rate.into()
    }

    /// Remembers that an object is damaged: nothing of it is read any more.
    pub fn is_damaged(&self, digest: &Digest, cause: &str) {
        let known = self.damaged.lock().insert(*digest, cause.to_owned());
        self.any_damaged.store(true, Ordering::Release);
        self.verified.lock().remove(digest);
        if known.is_none() {
            log::error!("{}", damaged(digest, cause));
        }
    }

    /// Another file has got the object's name, or it turned out to be sound.
    pub fn is_mended(&self, digest: &Digest) {
        if self.any_damaged.load(Ordering::Acquire) {
            let mut damaged = self.damaged.lock();
            if damaged.remove(digest).is_some() {
                self.replace(digest);
            }
            self.any_damaged
                .store(!damaged.is_empty(), Ordering::Release);
        }
    }

    /// Another file has got the object's name in the place of a damaged one, known as such or not.
    pub fn is_replaced(&self, digest: &Digest) {
        self.replace(digest);
        self.is_mended(digest);
    }

    fn replace(&self, digest: &Digest) {
        let mut replaced = self.replaced.lock();
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        replaced.insert(*digest, epoch);
    }

    /// To be asked before an object is opened, for [`Verification::is_replaced_since`].
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether who opened an object after it had asked for the epoch may have the damaged file open.
    pub fn is_replaced_since(&self, digest: &Digest, epoch: u64) -> bool {
        let is_later = |at: &u64| *at > epoch;
        self.epoch() != epoch && self.replaced.lock().get(digest).is_some_and(is_later)
    }

    /// The objects that were found damaged in this process, and why.
    pub fn damaged(&self) -> Vec<(Digest, String)> {
        let damaged = self.damaged.lock();
        let all = damaged.iter();
        all.map(|(digest, cause)| (*digest, cause.clone()))
            .collect()
    }
}

fn check_size(file: BorrowedFd<'_>, digest: &Digest, size: u64) -> Result<()> {
    let about = || format!("object {digest}");
    let found = rustix::fs::fstat(file).about(about())?.st_size as u64;
    match found == size {
        true => Ok(()),
        false => Err(damaged(
            digest,
            &format!("it has {found} bytes instead of {size}"),
        )),
    }
}

/// The error of who wants to read a damaged object.
pub fn damaged(digest: &Digest, cause: &str) -> Error {
    let error = Error::failed(format!("object {digest}"), cause);
    Error {
        errno: Some(libc::EIO),
        ..error.remedy("run `foldfs check --content`, then `foldfs check --repair --content`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn file(content: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn rates() {
        assert_eq!(Rate::new(0.0), Some(Rate::NEVER));
        assert_eq!(Rate::new(1.0), Some(Rate::ALWAYS));
        assert_eq!(Rate::new(0.000_000_1), Some(Rate(1)));
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::new(bad), None);
        }
    }

    #[test]
    fn the_size_is_always_looked_at_and_content_at_the_rate() {
        let digest = Digest::of(b"content");
        let (good, flipped, short) = (file(b"content"), file(b"Content"), file(b"conten"));
        let none = Verification::default();
        none.examine(good.as_fd(), &digest, 7).unwrap();
        none.examine(flipped.as_fd(), &digest, 7).unwrap();
        let error = none.examine(short.as_fd(), &digest, 7).unwrap_err();
        assert_eq!(error.errno, Some(libc::EIO));
        assert!(none.damaged().is_empty());

        let all = Verification::default();
        all.set_rate(Rate::ALWAYS);
        all.examine(good.as_fd(), &digest, 7).unwrap();
        // Once in a process.
        all.examine(flipped.as_fd(), &digest, 7).unwrap();
        let all = Verification::default();
        all.set_rate(Rate::ALWAYS);
        all.examine(flipped.as_fd(), &digest, 7).unwrap_err();
        assert_eq!(all.damaged().len(), 1);
        all.refuse_damaged(&digest).unwrap_err();
        all.refuse_damaged(&Digest::of(b"other")).unwrap();
        all.is_mended(&digest);
        all.refuse_damaged(&digest).unwrap();
    }

    #[test]
    fn a_share_chooses_so_many_and_nothing_large() {
        let half = Verification::default();
        half.set_rate(Rate::new(0.5).unwrap());
        let digests = (0..1000u32).map(|k| Digest::of(&k.to_le_bytes()));
        let chosen = digests.filter(|digest| half.is_chosen(digest, 1)).count();
        assert!((400..600).contains(&chosen), "{chosen}");
        let large = (0..1000u32).map(|k| Digest::of(&k.to_le_bytes()));
        assert!(
            large
                .into_iter()
                .all(|digest| !half.is_chosen(&digest, LARGE + 1))
        );
        half.set_rate(Rate::ALWAYS);
        assert!(half.is_chosen(&Digest::of(b"x"), LARGE + 1));
    }
}
