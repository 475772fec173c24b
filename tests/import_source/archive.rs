//! Tar archives as tar(1) writes them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use foldfs::archive::{StagedImport, import_tar};
use foldfs::error::Result;
use foldfs::progress::Silent;

use crate::describe::{self, Description};
use crate::fixture::{Fixture, fill, fill_deep};

pub fn import(fixture: &Fixture, archive: &Path) -> Result<StagedImport> {
    import_tar(&fixture.store, archive, &Silent)
}

/// Packs the fixture's source.
fn pack(fixture: &Fixture, name: &str, arguments: &[&str]) -> std::path::PathBuf {
    let archive = fixture.path(name);
    let done = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .args(["--numeric-owner", "-C"])
        .arg(&fixture.source)
        .args(arguments)
        .arg(".")
        .stderr(Stdio::null())
        .status()
        .unwrap();
    // Sockets are left out with a message.
    assert!(done.success(), "tar {arguments:?}");
    archive
}

const EVERYTHING: [&str; 4] = ["--format=posix", "--xattrs", "--xattrs-include=*", "--acls"];

/// What a tar archive can hold of the source.
fn expected(fixture: &Fixture) -> Description {
    fs::remove_file(fixture.source.join("socket")).unwrap();
    crate::fixture::set_time(&fixture.source, 86_400, 7);
    describe::directory(&fixture.source)
}

#[test]
fn pax_holds_everything() {
    let fixture = Fixture::new();
    fill(&fixture.source);
    let expected = expected(&fixture);
    for (name, more) in [
        ("plain.tar", &[][..]),
        ("gzip", &["-z"]),
        ("xz", &["-J"]),
        ("zstd", &["--zstd"]),
        ("sparse00", &["-S", "--sparse-version=0.0"]),
        ("sparse01", &["-S", "--sparse-version=0.1"]),
        ("sparse10", &["-S", "--sparse-version=1.0"]),
    ] {
        let archive = pack(&fixture, name, &[&EVERYTHING, more].concat());
        let import = import(&fixture, &archive).unwrap();
        describe::assert_equal(&describe::import(&import), &expected);
        assert!(import.warnings().is_empty(), "{:?}", import.warnings());
    }
}

#[test]
fn the_older_formats_hold_what_they_can() {
    let fixture = Fixture::new();
    let source = &fixture.source;
    fill(source);
    for name in ["socket", "dangling"] {
        fs::remove_file(source.join(name)).unwrap();
    }
    let find = |arguments: &[&str]| {
        let found = Command::new("find").arg(source).args(arguments).status();
        assert!(found.unwrap().success());
    };
    // Whole seconds, no xattrs.
    find(&[
        "-depth",
        "-exec",
        "touch",
        "-h",
        "-d",
        "2001-02-03 04:05:06",
        "{}",
        "+",
    ]);
    let plain = |description: Description| -> Description {
        let cut = |line: String| {
            let (head, tail) = line.split_once(" [").unwrap();
            format!("{head}{}", tail.split_once(']').unwrap().1)
        };
        description
            .into_iter()
            .map(|(path, line)| (path, cut(line)))
            .collect()
    };
    let expected = plain(describe::directory(source));
    for (name, arguments) in [
        ("gnu", &["--format=gnu"][..]),
        ("gnu-sparse", &["--format=gnu", "-S"]),
        ("oldgnu", &["--format=oldgnu", "-S"]),
    ] {
        let archive = pack(&fixture, name, arguments);
        let import = import(&fixture, &archive).unwrap();
        describe::assert_equal(&plain(describe::import(&import)), &expected);
    }
}

#[test]
fn a_file_with_many_holes() {
    let fixture = Fixture::new();
    let file = fs::File::create(fixture.source.join("holes")).unwrap();
    for n in 0..200_u64 {
        rustix::io::pwrite(&file, format!("{n}").as_bytes(), n * 100_000).unwrap();
    }
    let expected = describe::directory(&fixture.source);
    for (n, arguments) in [
        &["--format=oldgnu", "-S"][..],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ]
    .iter()
    .enumerate()
    {
        let archive = pack(&fixture, &n.to_string(), arguments);
        assert!(fs::metadata(&archive).unwrap().len() < 2 << 20);
        let import = import(&fixture, &archive).unwrap();
        let digest = |description: &Description| {
            let line = description["holes"].clone();
            line.split(' ').nth(5).unwrap().to_owned()
        };
        assert_eq!(digest(&describe::import(&import)), digest(&expected));
    }
}

#[test]
fn deep_and_long_paths() {
    let fixture = Fixture::new();
    fill_deep(&fixture.source, 15, &"long".repeat(60));
    fs::write(fixture.source.join("a".repeat(255)), b"x").unwrap();
    let expected = describe::directory(&fixture.source);
    for format in ["--format=posix", "--format=gnu"] {
        let archive = pack(&fixture, format, &[format]);
        let import = import(&fixture, &archive).unwrap();
        let found = describe::import(&import);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
    }
}

#[test]
fn standard_input_is_read_to_its_end() {
    let fixture = Fixture::new();
    fs::write(fixture.source.join("file"), vec![1; 100_000]).unwrap();
    let archive = pack(&fixture, "archive", &["-z"]);
    // import_tar reads this process's standard input: a child's, which runs one test only.
    let this = std::env::current_exe().unwrap();
    let done = Command::new(this)
        .args([
            "--exact",
            "archive::child_reads_standard_input",
            "--ignored",
        ])
        .env("FOLDFS_TEST_STORE", fixture.path("child"))
        .stdin(fs::File::open(archive).unwrap())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

#[test]
#[ignore = "run by standard_input_is_read_to_its_end"]
fn child_reads_standard_input() {
    let store = std::env::var_os("FOLDFS_TEST_STORE").unwrap();
    let store = foldfs::store::Store::init(Path::new(&store)).unwrap();
    let import = import_tar(&store, Path::new("-"), &Silent).unwrap();
    assert_eq!(import.statistics().logical_bytes, 100_000);
}
