//! What a mount gives of a damaged object.

use std::io::{Read, Write};

use super::*;

const TOOL: &str = "usr/lib/deep/deeper/data";

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn flipped_object_is_never_read_where_opens_are_verified() {
    let Some(store) = two_images("flipped_object_is_never_read") else {
        return;
    };
    let object = object_of(&store, "first", TOOL);
    flip(&object, 100);
    let config = configuration(&store, "verify = \"always\"");
    let (first, other) = (
        store.mount_configured("first", &config),
        store.mount("other"),
    );
    for (mounted, variant) in [(&first, 0), (&other, 1)] {
        let plain = store.sample(variant);
        let refused = right_or_refused(&plain, &mounted.path, "flipped");
        assert_eq!(refused, [Path::new(TOOL)]);
        // Nor is it copied into a private file.
        let open = fs::File::options().append(true).open(mounted.join(TOOL));
        let written = open.and_then(|mut file| file.write_all(b"more"));
        assert_eq!(errno(written), Some(libc::EIO));
    }
    let digest = digest_of(&object);
    let status = store.ok(&["status", "--json"]).json();
    assert_eq!(status["damaged"], serde_json::json!([digest]));
    assert!(store.ok(&["status"]).text().contains(&digest));
    // Though it does not read contents.
    let found = store.run(&["check"]).exits(3);
    assert!(found.text().contains(&digest[2..]), "{}", found.text());
    let log = fs::read_to_string(store.path.join("run/daemon.log")).unwrap();
    assert!(
        log.contains("ERROR") && log.contains(&digest),
        "nothing in the log:\n{log}"
    );
    // A guest mends its file by replacing it.
    fs::remove_file(first.join(TOOL)).unwrap();
    fs::copy(store.sample(0).join(TOOL), first.join(TOOL)).unwrap();
    let refused = right_or_refused(&store.sample(0), &first.path, "replaced");
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn check_content_in_a_daemon_stops_reads_of_what_it_finds() {
    let Some(store) = two_images("check_content_stops_reads") else {
        return;
    };
    store.configure("passthrough = false");
    let first = store.mount("first");
    let mut open = fs::File::open(first.join(TOOL)).unwrap();
    let object = object_of(&store, "first", TOOL);
    flip(&object, 100);
    let found = store.run(&["check", "--content"]).exits(3);
    assert!(found.text().contains(&digest_of(&object)[2..]));
    assert_eq!(errno(fs::read(first.join(TOOL))), Some(libc::EIO));
    assert_eq!(errno(open.read(&mut [0; 10])), Some(libc::EIO));
    // It is looked at again, not only remembered.
    flip(&object, 100);
    store.assert_sound();
    first.assert_shows(&store.sample(0));
}

#[test]
fn what_is_passed_through_is_refused_to_who_opens_it_later() {
    let test = "what_is_passed_through_is_refused_to_who_opens_it_later";
    let Some(store) = two_images(test).filter(|_| !common::without_passthrough()) else {
        return;
    };
    let first = store.mount("first");
    let mut open = fs::File::open(first.join(TOOL)).unwrap();
    flip(&object_of(&store, "first", TOOL), 100);
    store.run(&["check", "--content"]).exits(3);
    assert_eq!(errno(fs::read(first.join(TOOL))), Some(libc::EIO));
    // What the daemon copies it looks at.
    let copy = fs::File::create(first.join("copy")).unwrap();
    let copied = rustix::fs::copy_file_range(&open, Some(&mut 0), &copy, Some(&mut 0), 10);
    assert_eq!(copied, Err(rustix::io::Errno::IO));
    let read = open.read(&mut [0; 10]);
    assert!(read.is_ok(), "take the row out of docs/semantics.md");
}

#[test]
fn truncated_longer_or_missing_object_is_never_read() {
    let Some(store) = two_images("truncated_longer_or_missing") else {
        return;
    };
    let object = object_of(&store, "first", TOOL);
    let bytes = fs::read(&object).unwrap();
    let first = store.mount("first");
    for length in [0, 1, bytes.len() as u64 - 1, bytes.len() as u64 + 1] {
        truncate(&object, length);
        let refused = right_or_refused(&store.sample(0), &first.path, &format!("{length} bytes"));
        assert_eq!(refused, [Path::new(TOOL)]);
        fs::write(&object, &bytes).unwrap();
        first.assert_shows(&store.sample(0));
    }
    fs::remove_file(&object).unwrap();
    let refused = right_or_refused(&store.sample(0), &first.path, "missing");
    assert_eq!(refused, [Path::new(TOOL)]);
}

#[test]
fn object_truncated_under_an_open_file_is_not_read_as_short() {
    let Some(store) = two_images("object_truncated_under_an_open_file") else {
        return;
    };
    store.configure("passthrough = false");
    let object = object_of(&store, "first", TOOL);
    let first = store.mount("first");
    let mut open = fs::File::open(first.join(TOOL)).unwrap();
    truncate(&object, 2000);
    let mut found = Vec::new();
    let error = open.read_to_end(&mut found).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let expected = fs::read(store.sample(0).join(TOOL)).unwrap();
    assert!(expected.starts_with(&found));
}

#[test]
fn exports_refuse_a_damaged_object() {
    let Some(store) = two_images("exports_refuse_a_damaged_object") else {
        return;
    };
    let object = object_of(&store, "first", TOOL);
    flip(&object, 100);
    for format in ["dir", "tar", "overlay"] {
        let target = store.place.join(format);
        let arguments = [
            "export",
            "first",
            target.to_str().unwrap(),
            "--format",
            format,
        ];
        store
            .run(&arguments)
            .exits(1)
            .says(&[&digest_of(&object), "check"]);
    }
}
