//! Needs root and FUSE. A round trip between the kernel and the daemon costs more than the answer:
//! how many an operation takes is counted, and compared with what docs/performance.md says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::store::{Mounted, TestStore, run, tool};

const DIRECTORIES: usize = 20;
const FILES: usize = 50;
/// The directory that holds them, too.
const ENTRIES: usize = 1 + DIRECTORIES * (1 + FILES);

/// How often it is tried to count undisturbed.
const ATTEMPTS: usize = 8;

/// What docs/performance.md says that an operation takes: requests for each entry or file.
fn documented(operation: &str) -> f64 {
    let page = include_str!("../docs/performance.md");
    let row = page.lines().find_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let is_it = cells.next() == Some(operation);
        let column = usize::from(common::without_passthrough());
        is_it.then(|| cells.nth(column).unwrap().parse().unwrap())
    });
    row.unwrap_or_else(|| panic!("docs/performance.md says nothing of {operation:?}"))
}

type Counts = BTreeMap<String, u64>;

/// How many requests of each kind the daemon has answered.
fn counts(store: &TestStore) -> Counts {
    let text = store.ok(&["metrics"]).text();
    let found = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("foldfs_requests_total{op=\"")?;
        let (operation, count) = rest.split_once("\"} ")?;
        Some((operation.to_owned(), count.parse().unwrap()))
    });
    let found = found.collect::<Counts>();
    assert!(found.contains_key("lookup"), "{text}");
    found
}

/// The same once nothing is under way: the kernel closes files, and forgets, in its own time.
fn settled(store: &TestStore) -> Counts {
    let mut before = counts(store);
    loop {
        thread::sleep(Duration::from_millis(50));
        let now = counts(store);
        if now == before {
            return now;
        }
        before = now;
    }
}

/// What was counted, and what of it the page has otherwise.
struct Tally<'a> {
    store: &'a TestStore,
    wrong: Vec<String>,
}

impl Tally<'_> {
    /// Does something, and expects that it takes as many requests for each of `entries` as the page
    /// says: no more, and not so few either that the page should say less.
    fn expect(&mut self, operation: &str, entries: usize, work: impl FnOnce()) {
        let before = settled(self.store);
        work();
        let mut taken = settled(self.store);
        for (operation, count) in &mut taken {
            *count -= before[operation];
        }
        taken.retain(|_, count| *count > 0);
        // No answer is waited for.
        let forgotten = taken.remove("forget").unwrap_or(0);
        let each = taken.values().sum::<u64>() as f64 / entries as f64;
        let said = documented(operation);
        let told = format!(
            "{operation}: {each:.3} for each of {entries}, the page says {said}: {taken:?}; {forgotten} forgotten"
        );
        eprintln!("{told}");
        if each > said || said > each * 1.2 + 0.02 {
            self.wrong.push(told);
        }
    }
}

fn tree(place: &Path) -> PathBuf {
    let tree = place.join("tree");
    for group in ["known", "removed"] {
        for directory in 0..DIRECTORIES {
            let below = tree.join(format!("{group}/directory{directory}"));
            fs::create_dir_all(&below).unwrap();
            for file in 0..FILES {
                fs::write(below.join(format!("file{file}")), format!("content {file}")).unwrap();
            }
        }
    }
    tree
}

fn find(image: &Mounted) {
    let directory = image.join("known");
    let mut find = Command::new("find");
    let ran = run(find.arg(directory).args(["-printf", "%s %T@\n"]), b"").exits(0);
    assert_eq!(ran.text().lines().count(), ENTRIES);
}

/// What takes another number of requests than the page says, in a new image.
fn deviations() -> Vec<String> {
    let store = TestStore::new();
    let source = tree(&store.place);
    let archive = store.place.join("archive.tar");
    let [archive_text, source_text] = [&archive, &source].map(|path| path.to_str().unwrap());
    tool("tar", &["-C", source_text, "-cf", archive_text, "known"]);
    store.import("image", &source, "family");
    let image = store.mount("image");
    let mut tally = Tally {
        store: &store,
        wrong: Vec::new(),
    };

    tally.expect("a walk with stat, cold", ENTRIES, || find(&image));
    tally.expect("a walk with stat, the second one", ENTRIES, || find(&image));
    tally.expect("a walk with stat, warm", ENTRIES, || find(&image));
    let list = || {
        let ran = run(Command::new("ls").arg("-lR").arg(image.join("known")), b"").exits(0);
        assert!(ran.text().lines().count() > ENTRIES);
    };
    // The kernel keeps ACLs, of which it asks once.
    list();
    tally.expect("`ls -lR` with xattrs and ACLs, warm", ENTRIES, list);

    let files = (0..DIRECTORIES).flat_map(|directory| {
        (0..FILES).map(move |file| format!("known/directory{directory}/file{file}"))
    });
    let files: Vec<_> = files.map(|path| image.join(path)).collect();
    let read = || {
        for path in &files {
            let mut content = [0; 64];
            let length = File::open(path).unwrap().read(&mut content).unwrap();
            assert!(content[..length].starts_with(b"content"));
        }
    };
    let first = "open, read and close of a known file, the first time";
    tally.expect(first, files.len(), read);
    let again = "open, read and close of a known file, again";
    tally.expect(again, files.len(), read);

    let made = image.join("made");
    fs::create_dir(&made).unwrap();
    tally.expect("untar", ENTRIES, || {
        tool("tar", &["-C", made.to_str().unwrap(), "-xf", archive_text]);
    });
    assert_eq!(
        fs::read(made.join("known/directory7/file7")).unwrap(),
        b"content 7"
    );
    for (operation, directory) in [
        ("`rm -rf` of what was made", "made/known"),
        ("`rm -rf` of what is shared", "removed"),
    ] {
        let directory = image.join(directory);
        tally.expect(operation, ENTRIES, || {
            tool("rm", &["-rf", directory.to_str().unwrap()]);
        });
        assert!(!directory.exists());
    }
    image.unmount();
    tally.wrong
}

#[test]
fn operations_take_as_many_requests_as_the_page_says() {
    if !common::can_run("operations_take_as_many_requests", common::needs_fuse()) {
        return;
    }
    // Other tests drop the caches of the whole machine now and then.
    let mut wrong = deviations();
    for _ in 1..ATTEMPTS {
        if wrong.is_empty() {
            return;
        }
        wrong = deviations();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
