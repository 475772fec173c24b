//! diff: its arguments, and its report as a person reads it.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::session::Session;
use super::table::{Align, Table};
use super::units::{bytes, count, counted};
use crate::error::{Context as _, Result};
use crate::ops;
use crate::ops::diff::Options;
use crate::ops::report::{DiffEntry, DiffReport, DiffSide, Report};
use crate::path_bytes::PathBytes;
use crate::sys::{memory, process};

/// Show in what two images or directories differ
///
/// A and B are images, families (their base), FAMILY@CHANGE (what the base was after that change), or
/// directories of the host: what has a slash in it is a directory (./DIR), else the image or family of that
/// name, else the directory of that name. Exits
/// with 0 if they are equal, with 3 if they differ. Where a guest is at work in an image, clone it and
/// compare the clone.
#[derive(Debug, Args)]
pub struct Diff {
    /// The old tree
    #[arg(value_name = "A")]
    old: PathBuf,
    /// The new tree
    #[arg(value_name = "B")]
    new: PathBuf,
    /// Compare only these paths, from the trees' roots, and what is below them
    #[arg(value_name = "PATH", last = true)]
    paths: Vec<PathBuf>,
    /// Print only how many paths differ, and their bytes
    #[arg(long)]
    stat: bool,
    /// Print the lines in which text files differ
    #[arg(long, conflicts_with = "stat")]
    text: bool,
}

impl Diff {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let options = Options {
            old: self.old,
            new: self.new,
            paths: self.paths.into_iter().map(PathBytes::from).collect(),
            stat: self.stat,
            text: self.text,
        };
        let context = match options.needs_store() {
            true => Some(session.open(false)?),
            false => None,
        };
        memory::keep_what_is_freed();
        // One for each private level of the depth.
        process::raise_descriptor_limit().about("the limit of open files")?;
        let progress = session.progress();
        let report = ops::diff::diff(context.as_ref(), &options, &*progress)?;
        drop(progress);
        session.show(&Report::Diff(report), false)
    }
}

/// The text for standard output.
pub fn render(report: &DiffReport) -> String {
    if report.equal {
        return format!("{} and {} are equal\n", report.old, report.new);
    }
    let mut out = String::new();
    if !report.counts_only {
        let mut table = Table::new(&[
            ("KIND", Align::Left),
            ("T", Align::Left),
            ("OLD", Align::Right),
            ("NEW", Align::Right),
            ("PATH", Align::Left),
        ]);
        for entry in &report.differences {
            table.row([
                kind(entry),
                types(entry),
                size(entry.old.as_ref()),
                size(entry.new.as_ref()),
                place(entry),
            ]);
        }
        out.push_str(&table.render());
        for entry in &report.differences {
            text(entry, &mut out);
        }
        out.push('\n');
    }
    let counts = &report.counts;
    out.push_str(&format!(
        "{} added ({}), {} removed ({}), {} moved, {} altered, {} of them in content ({} before, {} now)\n",
        counted(counts.added, "path"),
        bytes(counts.added_bytes),
        count(counts.removed),
        bytes(counts.removed_bytes),
        count(counts.moved),
        count(counts.altered),
        count(counts.content),
        bytes(counts.old_bytes),
        bytes(counts.new_bytes),
    ));
    out
}

/// What is altered, or that it was added, removed or moved.
fn kind(entry: &DiffEntry) -> String {
    match (&entry.kind[..], &entry.aspects[..]) {
        ("altered", aspects) => aspects.join(","),
        (kind, []) => kind.to_owned(),
        (kind, aspects) => format!("{kind},{}", aspects.join(",")),
    }
}

fn types(entry: &DiffEntry) -> String {
    fn of(side: Option<&DiffSide>) -> Option<&str> {
        side.map(|side| &*side.file_type)
    }
    match (of(entry.old.as_ref()), of(entry.new.as_ref())) {
        (Some(old), Some(new)) if old != new => format!("{old}>{new}"),
        (old, new) => new.or(old).unwrap_or_default().to_owned(),
    }
}

fn size(side: Option<&DiffSide>) -> String {
    let file = side.filter(|side| side.file_type == "f");
    file.map(|side| bytes(side.size)).unwrap_or_default()
}

fn place(entry: &DiffEntry) -> String {
    match &entry.from {
        Some(from) => format!("{from} -> {}", entry.path),
        None => entry.path.to_string(),
    }
}

/// The lines that differ. What a file has in it cannot write to a terminal.
fn text(entry: &DiffEntry, out: &mut String) {
    let Some(text) = &entry.text else {
        return;
    };
    let from = entry.from.as_ref().unwrap_or(&entry.path);
    let name = |side: &Option<DiffSide>, path: &PathBytes| match side {
        Some(_) => path.to_string(),
        None => String::from("/dev/null"),
    };
    let (old, new) = (name(&entry.old, from), name(&entry.new, &entry.path));
    out.push_str(&format!("\n--- {old}\n+++ {new}\n"));
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    if !text.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::DiffCounts;

    fn file(size: u64) -> Option<DiffSide> {
        Some(DiffSide {
            file_type: "f".into(),
            size,
            digest: None,
            target: None,
            device: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nanoseconds: 0,
        })
    }

    #[test]
    fn neither_names_nor_lines_can_write_to_the_terminal() {
        let report = DiffReport {
            old: b"\x1b[1ma".as_slice().into(),
            new: b"b".as_slice().into(),
            equal: false,
            counts: DiffCounts {
                altered: 1,
                content: 1,
                old_bytes: 3,
                new_bytes: 2048,
                ..DiffCounts::default()
            },
            counts_only: false,
            differences: vec![DiffEntry {
                path: b"/x\x1b[2J\n\xff".as_slice().into(),
                kind: "altered".into(),
                from: None,
                aspects: vec!["content".into(), "mode".into()],
                old: file(3),
                new: file(2048),
                text: Some("@@ -1 +1 @@\n-\ta\u{9b}\n+\u{1b}]0;x\u{7}\r\n".into()),
            }],
        };
        assert_eq!(
            render(&report),
            "KIND          T  OLD      NEW  PATH\n\
             content,mode  f  3 B  2.0 KiB  /x\\u{1b}[2J\\n\\xff\n\
             \n--- /x\\u{1b}[2J\\n\\xff\n+++ /x\\u{1b}[2J\\n\\xff\n\
             @@ -1 +1 @@\n-\ta\\u{9b}\n+\\u{1b}]0;x\\u{7}\\r\n\
             \n0 paths added (0 B), 0 removed (0 B), 0 moved, 1 altered, 1 of them in content \
             (3 B before, 2.0 KiB now)\n"
        );
        let equal = DiffReport {
            equal: true,
            differences: Vec::new(),
            ..report
        };
        assert_eq!(render(&equal), "\\u{1b}[1ma and b are equal\n");
    }
}
