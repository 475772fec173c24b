//! Which objects there are, by size: kept from one pass to the next, so that only directories of
//! `objects/` in which names were made or removed are listed again.

use std::collections::HashMap;

use super::damage::concerns_all;
use crate::error::{Error, Result};
use crate::store::digest::Digest;
use crate::store::layout;
use crate::store::metadata::Time;
use crate::store::objects::{Found, Objects};

/// Names made less than so many seconds after a directory was last altered may not show in its times.
const SETTLED: i64 = 2;

/// The sizes of all objects.
#[derive(Debug, Default)]
pub struct KnownObjects {
    /// By the first byte of the digests.
    directories: HashMap<u8, Listed>,
    /// How many objects have a size.
    sizes: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Listed {
    /// When it was last altered; `None`: it may have been altered since without showing it.
    altered: Option<Time>,
    sizes: Box<[u64]>,
}

impl KnownObjects {
    /// Whether an object has this size.
    pub fn has_size(&self, size: u64) -> bool {
        self.sizes.contains_key(&size)
    }

    /// Lists what was altered since the last call; `take` gets all objects of these directories. One
    /// that cannot be read is left out, and tried again at the next call.
    ///
    /// # Errors
    /// Those of the host that do not concern one directory only.
    pub fn refresh(&mut self, objects: &Objects, mut take: impl FnMut(u64, &Digest)) -> Result<()> {
        for first in 0..=u8::MAX {
            // Before it is listed.
            let altered = match objects.last_change(first) {
                Ok(altered) => altered,
                Err(error) => {
                    leave_out(first, error)?;
                    continue;
                }
            };
            let known = self.directories.get(&first);
            match (altered, known) {
                (None, None) => continue,
                (Some(altered), Some(known)) if known.altered == Some(altered) => continue,
                _ => {}
            }
            let now = Time::now().seconds;
            let mut sizes = Vec::new();
            let mut listed = Ok(());
            if altered.is_some() {
                listed = objects.for_each_beginning(first, |found| {
                    if let Found::Object(digest, stat) = found {
                        let size = stat.st_size as u64;
                        sizes.push(size);
                        take(size, &digest);
                    }
                    Ok(())
                });
            }
            let mut settled = altered.filter(|altered| altered.seconds + SETTLED < now);
            if let Err(error) = listed {
                leave_out(first, error)?;
                settled = None;
            }
            self.replace(first, settled, sizes);
        }
        Ok(())
    }

    fn replace(&mut self, first: u8, altered: Option<Time>, sizes: Vec<u64>) {
        for &size in &sizes {
            *self.sizes.entry(size).or_default() += 1;
        }
        let listed = Listed {
            altered,
            sizes: sizes.into(),
        };
        let Some(before) = self.directories.insert(first, listed) else {
            return;
        };
        for size in before.sizes {
            if let Some(count) = self.sizes.get_mut(&size) {
                *count -= 1;
                if *count == 0 {
                    self.sizes.remove(&size);
                }
            }
        }
    }
}

/// Goes on without a directory that cannot be read: what is in it is not known to be there.
fn leave_out(first: u8, error: Error) -> Result<()> {
    if concerns_all(&error) {
        return Err(error);
    }
    let object = format!("objects/{}", layout::objects_beginning(first));
    let (cause, remedy) = (error.cause.as_str(), "run `foldfs check`");
    log::warn!(object = object.as_str(), cause, remedy; "a fold does not look there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn put(directory: &Path, content: &[u8]) {
        let digest = Digest::of(content).to_string();
        let (first, rest) = digest.split_at(2);
        fs::create_dir_all(directory.join(first)).unwrap();
        fs::write(directory.join(first).join(rest), content).unwrap();
    }

    fn refreshed(known: &mut KnownObjects, objects: &Objects) -> Vec<u64> {
        let mut sizes = Vec::new();
        known.refresh(objects, |size, _| sizes.push(size)).unwrap();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn only_what_may_have_been_altered_is_listed_again() {
        let place = tempfile::tempdir().unwrap();
        let objects = Objects::new(File::open(place.path()).unwrap().into());
        let mut known = KnownObjects::default();
        assert_eq!(refreshed(&mut known, &objects), [0; 0]);

        put(place.path(), b"one");
        put(place.path(), b"three");
        assert_eq!(refreshed(&mut known, &objects), [3, 5]);
        assert!(known.has_size(3) && known.has_size(5) && !known.has_size(4));
        assert_eq!(
            refreshed(&mut known, &objects),
            [3, 5],
            "the directories are too new to be sure"
        );
        // As if they had been listed when they were old.
        for listed in known.directories.values_mut() {
            listed.altered = Some(Time::default());
        }
        for (first, listed) in &mut known.directories {
            listed.altered = objects.last_change(*first).unwrap();
        }
        assert_eq!(refreshed(&mut known, &objects), [0; 0]);

        let digest = Digest::of(b"one").to_string();
        let directory = place.path().join(&digest[..2]);
        fs::remove_file(directory.join(&digest[2..])).unwrap();
        // The times of a directory do not hide it: the change time counts.
        let old = SystemTime::now() - Duration::from_secs(3600);
        let times = FileTimes::new().set_modified(old);
        File::open(&directory).unwrap().set_times(times).unwrap();
        refreshed(&mut known, &objects);
        assert!(!known.has_size(3) && known.has_size(5));

        fs::remove_dir(&directory).unwrap();
        refreshed(&mut known, &objects);
        assert!(!known.has_size(3) && known.has_size(5));
    }
}
