//! Where in the source steps are done: every one of these places must be reached by the sweep.
//!
//! A helper with `#[track_caller]` hands the place of its own caller on. So a step in one is
//! reached where the helper is called, and those calls are places, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::parts::{has_every_operation, say};
use super::report::Site;

/// Steps that no scenario can reach, as file and part of the line, and why that is so. One that is
/// reached after all has to go from here.
const UNREACHED: &[(&str, &str, &str)] = &[];

/// Parts of files' paths whose steps another test disturbs: each of them, by a failure and by the end of
/// the process. Nobody gets to look at an image to which a change was not applied to its end before the
/// store is opened again, which [`super::failing`] does.
const ELSEWHERE: &[(&str, &str)] = &[
    ("src/ops/patch/", "root_patch_steps.rs"),
    ("src/store/changes.rs", "root_patch_steps.rs"),
    ("src/filesystem/follow.rs", "root_patch_steps.rs"),
];

/// Calls of helpers with `#[track_caller]` in which steps are done.
const HELPERS: &[&str] = &[
    "reserve_numbers(",
    "reserve_image_id(",
    "store.sync()",
    "store().sync()",
    "self.sync()?",
    "commit_generation(",
    " set(self.images(), ",
    "generation::set(",
    "objects.replace(",
    "transaction.commit()",
    "draft::write_mark(",
    " write_mark(",
    "draft.mark(",
    "token.mark(",
    "file.mark(",
    "draft.place(",
    "token.place(",
    "file.place(",
    "link.place(",
    "device.place(",
    "whiteout.place(",
    "Draft::whiteout(layer)?.place(",
    "Objects::strip(",
    "objects().withdraw(",
];

/// What looks like such a call and is none: part of a file's path, and of the line.
const OTHERS: &[(&str, &str)] = &[
    // The hash cache may be deleted: no steps.
    ("store/cache.rs", "transaction.commit()"),
    // Within a transaction: its commit is the step.
    ("fold/commit.rs", "transaction.reserve_numbers("),
    ("catalog/numbers.rs", "transaction.reserve_numbers("),
    ("store/restore.rs", "transaction.reserve_numbers("),
    // Helpers in helpers.
    ("catalog/numbers.rs", "transaction.commit()"),
    ("catalog/numbers.rs", "pub fn "),
    ("store/draft.rs", "pub fn write_mark("),
    ("store/draft.rs", "write_mark(self.directory()"),
];

/// All places, with their lines.
pub fn in_source() -> Vec<(Site, String)> {
    let mut found = Vec::new();
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        let name = name.to_str().unwrap();
        if !is_test(name) && name != "src/sys/durable.rs" {
            in_file(name, &fs::read_to_string(&path).unwrap(), &mut found);
        }
    }
    found.sort();
    found
}

fn is_test(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap();
    let of_tests = ["test_image.rs", "tests.rs", "failures.rs", "races.rs"];
    of_tests.contains(&file) || name.contains("_tests") || name.contains("/tests/")
}

fn in_file(name: &str, text: &str, found: &mut Vec<(Site, String)>) {
    // The indentation of the helper that the line is in.
    let mut helper = None;
    let mut begins = false;
    let lines: Vec<&str> = text.lines().collect();
    for (number, &line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        // A module of tests that stands in a file of its own ends nothing.
        let is_inline = lines
            .get(number + 1)
            .is_some_and(|next| next.ends_with('{'));
        if code.starts_with("#[cfg(test)]") && indentation == 0 && is_inline {
            break;
        }
        if code.starts_with("#[track_caller]") {
            begins = true;
            helper = Some(indentation);
        }
        begins &= !code.ends_with('{');
        if !begins && helper == Some(indentation) && code == "}" {
            helper = None;
        }
        if code.contains("fn write_mark(") || code.starts_with("//") || code.starts_with("use ") {
            continue;
        }
        let direct = code.contains("durable::") && is_step(code);
        // A closure in a helper is no helper.
        let handed_on = helper.is_some() && !code.contains("= ||");
        let call = HELPERS.iter().any(|call| line.contains(call));
        let other = |(file, part): &(&str, &str)| name.ends_with(file) && code.contains(part);
        if direct && !handed_on || call && !OTHERS.iter().any(other) && !handed_on {
            found.push(((name.to_owned(), number as u32 + 1), line.to_owned()));
        }
    }
}

fn is_step(code: &str) -> bool {
    code.match_indices("durable::").any(|(at, found)| {
        let rest = &code[at + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_');
        matches!(end, Some(end) if end > 0 && matches!(&rest[end..=end], "(" | "<"))
    })
}

/// Says how many were reached. Expects the source to have all that were, what is excused not to be
/// among them, and nothing else to be missing where every operation was tried.
pub fn assert_reached(reached: &BTreeSet<Site>) {
    let all = in_source();
    assert!(all.len() > 200, "{} places only", all.len());
    let (mut faults, mut missed) = (Vec::new(), Vec::new());
    let mut excused = 0;
    let mut count = 0;
    let excuses = |(file, part, _): &&(&str, &str, &str), site: &Site, line: &str| {
        site.0.ends_with(file) && line.contains(part)
    };
    let mut elsewhere = 0;
    for (site, line) in &all {
        let (file, number) = site;
        if ELSEWHERE.iter().any(|(part, _)| file.starts_with(part)) {
            elsewhere += 1;
            continue;
        }
        let mut known = UNREACHED.iter();
        let excuse = known.find(|excuse| excuses(excuse, site, line));
        match (excuse, reached.contains(site)) {
            (None, false) => missed.push(format!("not reached: {file}:{number} {}", line.trim())),
            (Some((_, _, why)), true) => {
                faults.push(format!("reached, although {why}: {file}:{number}"));
            }
            (Some(_), false) => excused += 1,
            (None, true) => count += 1,
        }
    }
    for excuse in UNREACHED {
        if !all.iter().any(|(site, line)| excuses(&excuse, site, line)) {
            faults.push(format!("there is no such place: {excuse:?}"));
        }
    }
    for site in reached.iter().filter(|site| site.0.starts_with("src/")) {
        if !all.iter().any(|(known, _)| known == site) {
            faults.push(format!("not found in the source: {}:{}", site.0, site.1));
        }
    }
    say(&format!(
        "{count} of {} places of durable steps reached, {excused} cannot be, {elsewhere} are by other tests",
        all.len()
    ));
    if has_every_operation() {
        faults.append(&mut missed);
    }
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
}
