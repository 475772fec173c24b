//! Every kind of thing in a store, damaged in every way: no panic, a message that names it and what to
//! do, nothing wrong through a mount, and a repair that ends.
//!
//! Each run tries a share of it, another one each time, for FOLDFS_TEST_DAMAGE_SECONDS; `all` tries
//! everything. It prints its seed, and FOLDFS_TEST_SEED repeats it.

use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::store::Ran;

use super::ways::{Random, WAYS, Way, damage};
use super::*;

/// `first` and `other` with private things of every kind, and what they show.
struct Sample {
    store: TestStore,
    kept: PathBuf,
    /// What symlinks lead to.
    bystander: PathBuf,
    config: PathBuf,
    plain: [(&'static str, PathBuf); 2],
}

fn sample(test: &str) -> Option<Sample> {
    let store = two_images(test)?;
    let config = configuration(&store, "verify = \"always\"");
    let plain = [("first", 0), ("other", 1)].map(|(image, variant)| {
        let tree = store.place.join(format!("plain-{image}"));
        common::sample::copy(&store.sample(variant), &tree);
        (image, tree)
    });
    apply_a_patch(&store, plain.each_ref().map(|(_, tree)| tree));
    for (image, tree) in &plain {
        let mounted = store.mount_configured(image, &config);
        for root in [tree, &mounted.path] {
            fs::write(root.join("equal"), vec![b'x'; 20_000]).unwrap();
        }
        mounted.unmount();
    }
    let mounted = store.mount_configured("other", &config);
    for root in [&plain[1].1, &mounted.path] {
        fs::write(root.join("etc/own"), "a private file").unwrap();
        fs::write(root.join("linked"), "two names").unwrap();
        fs::hard_link(root.join("linked"), root.join("linked too")).unwrap();
        fs::rename(root.join("usr/lib"), root.join("renamed")).unwrap();
        fs::remove_file(root.join("etc/conf.d/b.conf")).unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::write(root.join("new/file"), "in a new directory").unwrap();
    }
    mounted.unmount();
    store.wait_for_daemons();
    store.ok(&["fold", "--dry-run"]);
    store.assert_sound();
    let (kept, bystander) = (store.place.join("kept"), store.place.join("bystander"));
    common::sample::copy(&store.path, &kept);
    fs::write(&bystander, "nobody's business").unwrap();
    Some(Sample {
        store,
        kept,
        bystander,
        config,
        plain,
    })
}

/// A change of the family: a file more, in the images and in the trees that they are compared with.
fn apply_a_patch(store: &TestStore, plain: [&PathBuf; 2]) {
    let (old, new) = (store.sample(0), store.place.join("new"));
    common::sample::copy(&old, &new);
    for tree in plain.into_iter().chain([&new]) {
        fs::write(tree.join("etc/patched"), "brought by a patch").unwrap();
    }
    let patch = store.place.join("patch");
    let [old, new, patch] = [&old, &new, &patch].map(|path| path.to_str().unwrap());
    store.ok(&["patch", "create", old, new, "-o", patch]);
    store.ok(&["patch", "apply", patch, "--family", "family"]);
}

impl Sample {
    /// After a failure: nothing is mounted.
    fn tidy_up(&self) {
        for mount in common::store::mounts_below(&self.store.place) {
            let _gone = std::process::Command::new("umount")
                .arg("-l")
                .arg(&mount)
                .status();
        }
        self.store.wait_for_daemons();
    }
}

/// What is damaged, by where it is below the store.
struct Victims {
    paths: Vec<PathBuf>,
    /// The directory of `other`: what is below it is no matter of `first`.
    image: PathBuf,
}

fn victims(sample: &Sample) -> Victims {
    let store = &sample.store;
    let why = store.ok(&["why", "other", "etc/own", "--json"]).json();
    let own = PathBuf::from(why["stored"].as_str().unwrap());
    let image = own.ancestors().nth(3).unwrap().to_owned();
    let object = object_of(store, "first", "usr/lib/deep/deeper/data");
    let object = object.strip_prefix(&store.path).unwrap().to_owned();
    let mut there: Vec<PathBuf> = [
        "catalog.db",
        "catalog.bak",
        "foldfs.toml",
        "run",
        "run/lock",
        "staging",
        "objects",
        "images",
        "changes",
        "changes/1",
    ]
    .map(PathBuf::from)
    .into();
    there.push(object.parent().unwrap().to_owned());
    there.extend([object, own, image.clone()]);
    for part in [
        "private",
        "private/etc",
        "private/etc/conf.d/b.conf",
        "private/renamed",
        "private/linked",
        "private/equal",
        "private/new/file",
        "index",
        "redirects",
        "orphans",
        "work",
    ] {
        there.push(image.join(part));
    }
    for part in ["index", "redirects"] {
        let names = fs::read_dir(store.path.join(&image).join(part)).unwrap();
        there.extend(names.map(|name| image.join(part).join(name.unwrap().file_name())));
    }
    for victim in &there {
        let found = store.path.join(victim).symlink_metadata();
        assert!(found.is_ok(), "{} is not there", victim.display());
    }
    // Not there as long as nobody uses the store: something else stands in their place.
    let absent = [
        "catalog.db-wal",
        "catalog.db-shm",
        "cache.db",
        "run/control.sock",
        "run/daemon.log",
        "run/folds.log",
        "quarantine",
        "changes/2",
    ];
    there.extend(absent.map(PathBuf::from));
    // As if the change were not made in `other` yet.
    let id = image.file_name().unwrap().to_str().unwrap();
    there.push(format!("changes/1-{id}").into());
    Victims {
        paths: there,
        image,
    }
}

/// No command panics, is killed, or hangs, and what it cannot do it says, with a remedy.
#[track_caller]
fn ends_well(ran: &Ran, what: &str) {
    let ended = [0, 1, 3, 4].contains(&ran.code) && !ran.stderr.contains("panicked");
    assert!(ended, "{what}: {ran:?}");
    if ![1, 4].contains(&ran.code) {
        return;
    }
    let json = ran.stderr.lines().rev();
    let json = json
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|line| line["error"].is_object());
    let has_all = match json {
        Some(json) => ["object", "cause", "remedy"].iter().all(|part| {
            json["error"][part]
                .as_str()
                .is_some_and(|said| !said.is_empty())
        }),
        None => {
            let said = ran.stderr.lines().rev();
            let said = said.filter_map(|line| line.strip_prefix("foldfs: ")).next();
            said.is_some_and(|said| said.contains(": ") && said.contains("; "))
        }
    };
    assert!(has_all, "{what}: no object, cause or remedy: {ran:?}");
}

/// What a check finds has an object, a cause and a remedy each.
#[track_caller]
fn findings(ran: &Ran, what: &str) -> usize {
    ends_well(ran, what);
    if [1, 4].contains(&ran.code) {
        return 0;
    }
    let report = ran.json();
    let findings = report["findings"].as_array().unwrap();
    for finding in findings {
        for part in ["object", "cause", "remedy"] {
            let is_empty = finding[part].as_str().is_some_and(str::is_empty);
            assert!(!is_empty, "{what}: {finding}");
        }
    }
    assert_eq!(ran.code == 3, !findings.is_empty(), "{what}: {report}");
    findings.len()
}

/// What is to be expected of the images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The right bytes, or an error number.
    RightOrRefused,
    /// Of `first`, all of it.
    FirstIsWhole,
}

/// Mounts each image and reads everything; what it shows is right, or gives an error number.
#[track_caller]
fn nothing_wrong(sample: &Sample, expected: Expected, what: &str) {
    let store = &sample.store;
    for (image, tree) in &sample.plain {
        let place = store.place.join(format!("mnt-{image}"));
        let config = sample.config.to_str().unwrap();
        let ran = store.run(&[
            "mount",
            image,
            place.to_str().unwrap(),
            "-o",
            "dev,suid",
            "--config",
            config,
        ]);
        ends_well(&ran, what);
        let is_whole = *image == "first" && expected == Expected::FirstIsWhole;
        assert!(ran.code == 0 || !is_whole, "{what}: {ran:?}");
        if ran.code != 0 {
            continue;
        }
        for (name, entry) in &Snapshot::of(tree).entries {
            let name = Path::new(OsStr::from_bytes(name));
            let about = format!("{what}: {image}: {}", name.display());
            let there = place.join(name).symlink_metadata();
            assert!(there.is_ok() || !is_whole, "{about}: {there:?}");
            let Some(stat) = there.ok().filter(|_| entry.digest.is_some()) else {
                continue;
            };
            let plain = tree.join(name).symlink_metadata().unwrap();
            if is_whole {
                let shown = (stat.mode(), stat.uid(), stat.gid(), stat.size());
                let right = (plain.mode(), plain.uid(), plain.gid(), plain.size());
                assert_eq!(shown, right, "{about}");
            }
            match fs::read(place.join(name)) {
                Ok(found) => {
                    let right = fs::read(tree.join(name)).unwrap();
                    assert!(found == right, "{about} has wrong bytes");
                }
                Err(error) => assert!(!is_whole, "{about}: {error}"),
            }
        }
        common::store::unmount(&store.path, &place);
    }
    store.wait_for_daemons();
}

/// After a damage: commands, a fold, mounts, two repairs.
fn judge(sample: &Sample, victims: &Victims, victim: &Path, way: Way, what: &str) {
    let store = &sample.store;
    // Of a private file there is no second copy, and no digest, to tell its content by. SQLite has no
    // checksums: a flipped byte in the catalog may be another name, or another file's number.
    let is_content = ["own", "file", "equal"]
        .iter()
        .any(|name| victim.ends_with(name))
        || victim.to_str().unwrap().contains("/index/");
    let in_place = [
        Way::Truncated,
        Way::Emptied,
        Way::BytesFlipped,
        Way::PageOfNoise,
        Way::Hole,
    ];
    let in_mark = [Way::MarkOfNoise, Way::MarkFlipped].contains(&way);
    // Nor does anything tell that an entry of a private layer was there: the shared one shows.
    let in_private = victim.starts_with(victims.image.join("private"));
    let is_gone = in_private && way == Way::Missing && !victim.ends_with("private");
    let is_unknowable = in_mark
        || is_gone
        || is_content && in_place.contains(&way)
        || victim == Path::new("catalog.db") && way == Way::BytesFlipped;
    let expected = match victim.starts_with(&victims.image) {
        true => Expected::FirstIsWhole,
        false => Expected::RightOrRefused,
    };
    findings(&store.run(&["check", "--content", "--json"]), what);
    for command in [&["list"][..], &["status"], &["fold"], &["log"]] {
        ends_well(&store.run(command), what);
    }
    let look = |what: &str| match is_unknowable {
        true => {}
        false => nothing_wrong(sample, expected, what),
    };
    look(what);
    let repaired = store.run(&["check", "--repair", "--content", "--json"]);
    let left = findings(&repaired, what);
    let then = store.run(&["check", "--content", "--json"]);
    let found = findings(&then, what);
    // What keeps the lock from being taken keeps nobody from reading.
    if repaired.code != 1 {
        let left = (repaired.code, left);
        assert_eq!((then.code, found), left, "{what}: {repaired:?} {then:?}");
    }
    let again = store.run(&["check", "--repair", "--content", "--json"]);
    findings(&again, what);
    if again.code != 1 {
        let again = again.json();
        let repairs = again["repairs"].as_array().unwrap();
        assert!(repairs.is_empty(), "{what}: {again}");
    }
    look(&format!("{what}, repaired"));
    let bystander = fs::read(&sample.bystander).unwrap();
    assert_eq!(bystander, b"nobody's business", "{what}");
}

/// How long to go on; `None`: until everything was tried.
fn budget() -> Option<Duration> {
    match std::env::var("FOLDFS_TEST_DAMAGE_SECONDS") {
        Ok(all) if all == "all" => None,
        Ok(seconds) => Some(Duration::from_secs(seconds.parse().unwrap())),
        Err(_) => Some(Duration::from_secs(25)),
    }
}

/// How often a random way is tried at a thing, in all of it.
fn tries(victim: &Path, way: Way) -> usize {
    match way {
        Way::BytesFlipped | Way::PageOfNoise if victim.ends_with("catalog.db") => 12,
        Way::BytesFlipped | Way::MarkFlipped => 3,
        _ => 1,
    }
}

/// What went wrong once: tried in each run, before anything else.
const FOUND: [(&str, Way); 5] = [
    ("changes", Way::Fifo),
    ("changes/1-3", Way::Device),
    ("foldfs.toml", Way::Symlink),
    ("catalog.db-wal", Way::Directory),
    ("run/lock", Way::Fifo),
];

/// What is damaged, how, and which time.
type Try<'a> = (&'a PathBuf, Way, u64);

/// Which one comes next.
fn next(left: &[Try<'_>], random: &mut Random) -> usize {
    let found = FOUND.iter().find_map(|(path, way)| {
        let is_it = |(victim, with, _): &Try<'_>| *victim == Path::new(path) && with == way;
        left.iter().position(is_it)
    });
    found.unwrap_or_else(|| random.below(left.len() as u64) as usize)
}

#[test]
fn everything_is_damaged_in_every_way() {
    let Some(sample) = sample("everything_is_damaged_in_every_way") else {
        return;
    };
    let begun = Instant::now();
    let seed = std::env::var("FOLDFS_TEST_SEED").map_or_else(
        |_| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_micros() as u64
        },
        |seed| seed.parse().unwrap(),
    );
    println!("FOLDFS_TEST_SEED={seed}");
    let victims = victims(&sample);
    let mut left: Vec<Try<'_>> = Vec::new();
    for victim in &victims.paths {
        for way in WAYS {
            let tries = 0..tries(victim, way) as u64;
            left.extend(tries.map(|number| (victim, way, number)));
        }
    }
    let mut random = Random(seed);
    let (mut done, mut wrong) = (0_usize, Vec::new());
    let goes_on = |done| {
        let in_time = budget().is_none_or(|budget| begun.elapsed() < budget);
        in_time || done <= FOUND.len()
    };
    for (path, _) in &FOUND {
        assert!(victims.paths.iter().any(|victim| victim == Path::new(path)));
    }
    while !left.is_empty() && goes_on(done) {
        let (victim, way, number) = left.swap_remove(next(&left, &mut random));
        let path = sample.store.path.join(victim);
        let own = seed ^ (number << 32) ^ (way as u64) << 48;
        if !damage(&path, way, &sample.bystander, &mut Random(own)) {
            continue;
        }
        let what = format!("{}: {way:?} {number}", victim.display());
        println!("{what}");
        let judged = AssertUnwindSafe(|| judge(&sample, &victims, victim, way, &what));
        if catch_unwind(judged).is_err() {
            wrong.push(what);
            sample.tidy_up();
        }
        fs::remove_dir_all(&sample.store.path).unwrap();
        common::sample::copy(&sample.kept, &sample.store.path);
        done += 1;
    }
    let seconds = begun.elapsed().as_secs();
    println!(
        "{done} damages of {} things in {seconds} s",
        victims.paths.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of them go wrong: {wrong:#?}",
        wrong.len()
    );
}
