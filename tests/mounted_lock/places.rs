//! Which paths are locked: patterns, and what is moved.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::*;

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn nothing_becomes_locked_or_goes_with_what_is_above_it() {
    let test = "nothing_becomes_locked_or_goes_with_what_is_above_it";
    let Some(store) = world(test, &["first"]) else {
        return;
    };
    let image = store.mount("first");
    let at = |path: &str| image.join(path);
    fs::create_dir_all(at("a/deep/er")).unwrap();
    fs::create_dir_all(at("b/deep")).unwrap();
    fs::write(at("a/deep/er/x.key"), "key").unwrap();
    fs::write(at("a/plain"), "plain").unwrap();
    fs::create_dir(at("c")).unwrap();
    fs::write(at("c/inner"), "inner").unwrap();
    store
        .run(&words("lock family *.key /d/inner /e/ --adopt"))
        .exits(3);
    let rename = |from: &str, to: &str| errno(fs::rename(at(from), at(to)));
    let perm = Some(Errno::PERM);
    assert_eq!(rename("a", "a2"), perm, "something locked is below it");
    assert_eq!(rename("a/deep", "deep"), perm);
    assert_eq!(rename("a/plain", "a/plain.key"), perm);
    assert_eq!(rename("b", "b.key"), perm);
    assert_eq!(rename("c", "d"), perm, "it would come to be locked there");
    assert_eq!(rename("b", "e"), perm);
    assert_eq!(
        rename("a/plain", "e"),
        None,
        "only a directory is locked there"
    );
    assert_eq!(rename("e", "a/plain"), None);
    assert_eq!(rename("b", "d"), None, "nothing locked is in it");
    assert_eq!(rename("c", "f"), None);
    assert_eq!(errno(fs::create_dir(at("e"))), perm);
    assert_eq!(errno(fs::write(at("e"), "")), None);
    assert_eq!(errno(fs::write(at("d/inner"), "")), perm);
    assert_eq!(errno(fs::write(at("d/deep/inner"), "")), None);
    assert_eq!(errno(fs::write(at("f/new.key"), "")), perm);
    let exchange = |from: &str, to: &str| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags)
    };
    assert_eq!(exchange("a", "d"), Err(Errno::PERM));
    assert_eq!(
        exchange("d", "f"),
        Err(Errno::PERM),
        "inner would come there"
    );
    assert_eq!(exchange("f", "d"), Err(Errno::PERM));
    assert_eq!(exchange("d/deep", "f"), Ok(()));
    finish(&store, [image]);
}

#[test]
fn names_need_not_be_utf8() {
    let Some(store) = world("names_need_not_be_utf8", &["first"]) else {
        return;
    };
    let image = store.mount("first");
    let strange = OsStr::from_bytes(b"\xff\xfe");
    fs::write(image.join("top/dir").join(strange), "before").unwrap();
    fs::create_dir(image.join(strange)).unwrap();
    store
        .run(&words("lock family /top/dir/* /??/x --adopt"))
        .exits(3);
    let perm = Some(Errno::PERM);
    assert_eq!(
        errno(fs::write(image.join("top/dir").join(strange), "")),
        perm
    );
    let new = OsStr::from_bytes(b"\x80new");
    assert_eq!(errno(fs::write(image.join("top/dir").join(new), "")), perm);
    assert_eq!(errno(fs::write(image.join(strange).join("x"), "")), perm);
    assert_eq!(errno(fs::write(image.join(strange).join(new), "")), None);
    finish(&store, [image]);
}

#[test]
fn what_a_pattern_leaves_out_is_free() {
    let test = "what_a_pattern_leaves_out_is_free";
    let Some(store) = world(test, &["first", "second"]) else {
        return;
    };
    let image = store.mount("first");
    let at = |path: &str| image.join(path);
    lock(&store, "/top/dir/* !/top/dir/sub");
    let perm = Some(Errno::PERM);
    assert_eq!(errno(fs::write(at("top/dir/file"), "x")), perm);
    assert_eq!(errno(fs::write(at("top/dir/new"), "x")), perm);
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "x")), None);
    assert_eq!(errno(fs::rename(at("top/dir"), at("top/dir2"))), perm);

    // Without it more is locked, and an image has something of its own there.
    let refused = store.run(&words("unlock family !/top/dir/sub")).exits(1);
    refused.says(&["first:/top/dir/sub"]);
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "y")), None);
    store
        .run(&words("unlock family !/top/dir/sub --adopt"))
        .exits(3);
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "z")), perm);
    // The one that comes later counts.
    lock(&store, "!/top/dir/sub");
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "z")), None);
    store.run(&words("lock family /top/dir/* --adopt")).exits(3);
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "a")), perm);
    store.ok(&words("unlock family /top/dir/*"));
    assert_eq!(errno(fs::write(at("top/dir/sub/x"), "a")), None);
    assert_eq!(errno(fs::write(at("top/dir/file"), "a")), None);
    finish(&store, [image]);
}
