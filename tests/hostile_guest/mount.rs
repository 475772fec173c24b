//! The mount that a hostile guest works at, its daemon, and what the daemon says.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::common::store::{TestStore, is_mounted, unmount};

/// No system call takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in the foreground.
pub struct Served<'a> {
    /// Where the image is mounted, without its devices and set-uid bits.
    pub path: PathBuf,
    store: &'a TestStore,
    daemon: Child,
    log: PathBuf,
}

impl<'a> Served<'a> {
    /// Mounts the image `first`.
    pub fn new(store: &'a TestStore) -> Self {
        let path = store.place.join("mnt-hostile");
        fs::create_dir_all(&path).unwrap();
        let log = store.place.join("log");
        let mut command = store.command(&["mount", "first", path.to_str().unwrap(), "-f"]);
        command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let daemon = command.spawn().unwrap();
        let start = Instant::now();
        while !is_mounted(&path) {
            assert!(start.elapsed() < PATIENCE, "it is not mounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            path,
            store,
            daemon,
            log,
        }
    }

    /// Waits for threads that count their calls.
    ///
    /// # Panics
    /// When one of them makes no progress: a system call hangs. The connection is cut then.
    pub fn wait(&self, counts: &[[AtomicU64; 2]], is_finished: impl Fn(usize) -> bool) {
        let connection = fs::metadata(&self.path).unwrap().dev();
        let look = || -> Vec<u64> {
            let calls = counts.iter().map(|count| count[0].load(Ordering::Relaxed));
            calls.collect()
        };
        let mut seen: Vec<_> = look()
            .into_iter()
            .map(|calls| (calls, Instant::now()))
            .collect();
        while !(0..counts.len()).all(&is_finished) {
            std::thread::sleep(Duration::from_millis(50));
            for (index, calls) in look().into_iter().enumerate() {
                let (before, since) = seen[index];
                if calls != before || is_finished(index) {
                    seen[index] = (calls, Instant::now());
                } else if since.elapsed() > PATIENCE {
                    let minor = rustix::fs::minor(connection);
                    let abort = format!("/sys/fs/fuse/connections/{minor}/abort");
                    let _cut = fs::write(abort, "1");
                    panic!("thread {index} hangs in call {calls}; {}", self.said());
                }
            }
        }
    }

    fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.chars().take(4000).collect()
    }

    /// The most memory that the daemon has had, in KiB.
    pub fn peak_memory(&mut self) -> u64 {
        let ended = self.daemon.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", self.said());
        super::peak_memory(&self.daemon.id().to_string())
    }

    /// Unmounts.
    ///
    /// # Panics
    /// When the daemon has panicked or does not end well.
    pub fn finish(mut self) {
        let alive = self.daemon.try_wait().unwrap();
        assert!(alive.is_none(), "the daemon is gone: {}", self.said());
        unmount(&self.store.path, &self.path);
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.daemon.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        };
        let said = self.said();
        assert!(status.success() && !said.contains("panicked"), "{said}");
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if matches!(self.daemon.try_wait(), Ok(None)) {
            let _killed = self.daemon.kill();
            let _reaped = self.daemon.wait();
        }
    }
}
