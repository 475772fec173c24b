//! Needs root and FUSE. A guest that means harm: random and malformed system calls at a mount, and
//! random and malformed FUSE messages at the adapter. Nothing may panic, hang or grow without
//! bound; and another image, the objects and the host's own files stay as they were.
//!
//! FOLDFS_TEST_HOSTILE_SECONDS says how long each of the random tests goes on; each prints its seed,
//! and FOLDFS_TEST_SEED repeats it.
#![cfg(feature = "fuse")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "hostile_guest/bystanders.rs"]
mod bystanders;
#[path = "hostile_guest/fuse_messages.rs"]
mod fuse_messages;
#[path = "hostile_guest/fuse_peer.rs"]
mod fuse_peer;
#[path = "hostile_guest/limits.rs"]
mod limits;
#[path = "hostile_guest/mount.rs"]
mod mount;
#[path = "hostile_guest/random.rs"]
mod random;
#[path = "hostile_guest/system_calls.rs"]
mod system_calls;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bystanders::Bystanders;
use common::device::{Device, Kind};
use foldfs::filesystem::Filesystem;
use foldfs::filesystem::images::Images;
use foldfs::store::catalog::Reads;
use foldfs::store::{Access, Store};
use fuse_messages::{Known, Message, random_message};
use fuse_peer::{Peer, message};
use mount::Served;
use random::Random;
use system_calls::Guest;

/// Messages of one round, after which the store is looked at.
const MESSAGES: usize = 30_000;
/// System calls of each thread in one round.
const CALLS: usize = 25_000;
const THREADS: usize = 4;
/// A process that is asked for nothing unusual needs a tenth of it.
const MEMORY_MAX_KIB: u64 = 700 << 10;

fn can_run(test: &str) -> bool {
    common::can_run(test, common::needs_fuse().or(Device::missing(Kind::Ext4)))
}

/// An image of a store that this process has open.
fn open_image(bystanders: &Bystanders, name: &str) -> Arc<Filesystem> {
    // A daemon ends a moment after its last mount.
    bystanders.store.wait_for_daemons();
    let store = Arc::new(Store::open(&bystanders.store.path, Access::Write).unwrap());
    let image = store.catalog().image_by_name(name).unwrap().unwrap();
    Images::new(store).filesystem(image.id).unwrap()
}

/// The most memory that a process has had, in KiB.
fn peak_memory(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

/// Sends messages, a few at a time, and receives all answers; the ones that ended the session.
fn throw(peer: &mut Peer, messages: &[Message], known: &mut Known) -> bool {
    let mut opcodes = HashMap::new();
    for message in messages {
        opcodes.insert(message.unique, message.opcode);
        let sent = peer.send(&message.bytes, message.unique, message.answers);
        if sent.is_err() || message.may_end {
            assert!(messages.iter().any(|message| message.may_end));
            return true;
        }
    }
    while peer.awaited() > 0 {
        let Ok(answer) = peer.receive(&messages) else {
            panic!("the session ended at one of {messages:?}");
        };
        known.learn(opcodes[&answer.unique], &answer);
    }
    false
}

#[test]
fn random_fuse_messages() {
    if !can_run("random_fuse_messages") {
        return;
    }
    let pool = foldfs::serve::fuse::pool::pool().unwrap();
    random::rounds("random_fuse_messages", |seed| {
        let bystanders = Bystanders::new(96);
        let mut random = Random::new(seed);
        let filesystem = open_image(&bystanders, "first");
        let mut known = Known::default();
        let mut peer = Peer::connect(&filesystem, &pool);
        let (mut unique, mut ended) = (1, 0);
        let mut sent = 0;
        while sent < MESSAGES {
            let count = *random.one(&[1, 1, 1, 8, 30]);
            let messages: Vec<_> = (0..count)
                .map(|_| {
                    unique += 1;
                    random_message(&mut random, &known, unique)
                })
                .collect();
            sent += count;
            if throw(&mut peer, &messages, &mut known) {
                ended += 1;
                peer.close();
                peer = Peer::connect(&filesystem, &pool);
            }
        }
        peer.close();
        println!(
            "{sent} messages, {ended} sessions ended; {} nodes, {} handles",
            filesystem.nodes(),
            filesystem.open_handles()
        );
        drop(filesystem);
        bystanders.assert_unchanged();
        bystanders.assert_clean();
    });
    let peak = peak_memory("self");
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
}

/// A name is one component: with a slash in it, it would lead out of its directory.
#[test]
fn names_with_slashes_lead_nowhere() {
    if !can_run("names_with_slashes_lead_nowhere") {
        return;
    }
    let pool = foldfs::serve::fuse::pool::pool().unwrap();
    let bystanders = Bystanders::new(96);
    let filesystem = open_image(&bystanders, "first");
    let mut peer = Peer::connect(&filesystem, &pool);
    let images: Vec<_> = std::fs::read_dir(bystanders.store.path.join("images"))
        .unwrap()
        .map(|image| image.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut names = vec!["etc/hosts".to_owned(), "../private".into(), "/".into()];
    for image in images {
        for path in ["", "/etc", "/etc/hosts", "/var/usr"] {
            names.push(format!("../../{image}/private{path}"));
        }
    }
    for (unique, name) in (2..).zip(&names) {
        // LOOKUP, UNLINK, RMDIR
        for opcode in [1, 10, 11] {
            let bytes = message(opcode, unique, 1, format!("{name}\0").as_bytes());
            let answer = peer.call(&bytes, unique).unwrap();
            assert_eq!(answer.error, -libc::EINVAL, "{opcode} {name}");
        }
        // RENAME2, from there and to there
        for [old, new] in [[name.as_str(), "new"], ["etc", name]] {
            let mut body = 1u64.to_ne_bytes().to_vec();
            body.extend([0; 8]);
            body.extend(format!("{old}\0{new}\0").as_bytes());
            let bytes = message(45, unique, 1, &body);
            let answer = peer.call(&bytes, unique).unwrap();
            assert_eq!(answer.error, -libc::EINVAL, "{old} to {new}");
        }
    }
    peer.close();
    drop(filesystem);
    bystanders.assert_unchanged();
    bystanders.assert_clean();
}

#[test]
fn random_system_calls() {
    if !can_run("random_system_calls") {
        return;
    }
    random::rounds("random_system_calls", |seed| {
        let bystanders = Bystanders::new(96);
        let mut served = Served::new(&bystanders.store);
        let counts: [[AtomicU64; 2]; THREADS] = Default::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = counts
                .iter()
                .zip(seed..)
                .map(|(counts, seed)| {
                    let path = &served.path;
                    scope.spawn(move || Guest::enter(path, seed << 8, counts).work(CALLS))
                })
                .collect();
            served.wait(&counts, |index| threads[index].is_finished());
        });
        let sum = |kind: usize| -> u64 {
            counts
                .iter()
                .map(|count| count[kind].load(Ordering::Relaxed))
                .sum()
        };
        let peak = served.peak_memory();
        println!("{} calls, {} succeeded; {peak} KiB", sum(0), sum(1));
        assert!(sum(1) * 20 > sum(0), "hardly any succeeded");
        assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
        served.finish();
        bystanders.assert_unchanged();
        bystanders.assert_clean();
    });
}
