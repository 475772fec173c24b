//! A daemon that nobody serves yet. Needs root: a store's marks are trusted xattrs.

use crate::store::open::Store;

use super::*;

/// What feeds the watchdog (`watch_mounts`) must go on meanwhile.
#[test]
fn a_look_at_mounts_does_not_wait_while_images_are_mounted() {
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::init(&temporary.path().join("store")).unwrap();
    let options = Options {
        socket: temporary.path().join("socket"),
        session_threads: 1,
        schedule: Schedule {
            interval: None,
            quiet: Duration::ZERO,
            threads: 0,
            rate: None,
        },
        metrics: None,
        passthrough: None,
        configuration: None,
    };
    let daemon = Daemon::new(Context::new(Arc::new(store), 0), options).unwrap();
    assert_eq!(daemon.forget_gone(), Some(true));
    let at_work = daemon.mounts.lock();
    let (looked, seen) = std::sync::mpsc::channel();
    let looking = daemon.clone();
    std::thread::spawn(move || looked.send(looking.forget_gone()));
    assert_eq!(seen.recv_timeout(Duration::from_secs(60)), Ok(None));
    drop(at_work);
    assert_eq!(daemon.forget_gone(), Some(true));
}
