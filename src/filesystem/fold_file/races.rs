//! Guests that want a file while it is read to be folded.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::data::SetId;
use super::super::test_image::{TestImage, big};
use super::{FoldFile, Folded};
use crate::store::digest::Digest;

#[test]
fn who_writes_while_a_file_is_read_does_not_wait_for_the_fold() {
    let image = TestImage::new();
    let node = image.make(image.fs.root(), "own", &big());
    let fold = |progress: &(dyn Fn(u64) + Sync)| {
        let fold = FoldFile {
            digest: None,
            unmounted: false,
            synced: None,
            is_awaited: &|| false,
            progress,
            replaced: &|_, _| {},
        };
        image.fs.fold_file(&node, &fold).unwrap()
    };
    let is_written = AtomicBool::new(false);
    let write = |_| {
        // In the thread that folds: it would wait for itself.
        if !is_written.swap(true, Ordering::SeqCst) {
            let handle = image.writer(&node);
            image.fs.write(handle, 0, b"X", SetId::Keep).unwrap();
            image.fs.release(handle);
        }
    };
    assert_eq!(fold(&write), Folded::Busy);
    assert!(is_written.load(Ordering::SeqCst));
    let mut expected = big();
    expected[0] = b'X';
    assert!(image.content(&node) == expected);
    assert_eq!(image.debris(), 0);
    // Left alone, it is folded as it is now.
    let (digest, bytes) = (Digest::of(&expected), expected.len() as u64);
    assert_eq!(fold(&|_| {}), Folded::Becoming { digest, bytes });
    assert!(image.content(&node) == expected);
}
