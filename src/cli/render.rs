//! Reports as a person reads them.

use super::table::{Align, Table};
use super::units::{bytes, count, counted, date, percent, signed_bytes};
use super::{apply, diff, history, holds, locks, patch, working};
use crate::ops::export::Format;
use crate::ops::report::{
    CheckReport, CloneReport, CollectReport, ExportReport, FamilyFold, FoldReport, FoldingStatus,
    ImportReport, InitReport, ListReport, MountReport, RemoveReport, RenameReport, ReplaceReport,
    Report, ResetKind, StatusReport, WhyReport,
};
use crate::path_bytes::PathBytes;

/// The text for standard output. `dry_run`: the report says what would be done.
pub fn render(report: &Report, dry_run: bool) -> String {
    let would = Would(dry_run);
    match report {
        Report::Init(report) => init(report, would),
        Report::Import(report) => import(report, would),
        Report::Clone(report) => clone(report, would),
        Report::Rename(report) => rename(report, would),
        Report::Remove(report) => remove(report, would),
        Report::Working(report) => working::render(report, dry_run),
        Report::Fold(report) => fold(report, would),
        Report::Hold(report) => holds::render_hold(report, dry_run),
        Report::Release(report) => holds::render_release(report, dry_run),
        Report::Lock(report) => locks::render(report, would.verb("locked", "would be locked")),
        Report::Unlock(report) => {
            locks::render(report, would.verb("unlocked", "would be unlocked"))
        }
        Report::Log(report) => history::render(report),
        Report::Changes(report) => history::render_changes(report),
        Report::Metrics(report) => report.text.clone(),
        Report::Collect(report) => collect(report, would),
        Report::Check(report) => check(report),
        Report::Status(report) => status(report),
        Report::List(report) => list(report),
        Report::Why(report) => why(report),
        Report::Diff(report) => diff::render(report),
        Report::Patch(report) => patch::render(report),
        Report::Apply(report) => apply::render(report, dry_run),
        Report::Export(report) => export(report),
        Report::Mount(report) => mounts(report, would.verb("mounted", "would be mounted")),
        Report::Unmount(report) => mounts(report, would.verb("unmounted", "would be unmounted")),
        Report::ReplaceDaemon(report) => replaced(report, would),
    }
}

/// Whether something was done or would be.
#[derive(Clone, Copy)]
struct Would(bool);

impl Would {
    fn verb(self, done: &'static str, planned: &'static str) -> &'static str {
        if self.0 { planned } else { done }
    }
}

fn replaced(report: &ReplaceReport, would: Would) -> String {
    let verb = would.verb("serves", "would serve");
    format!(
        "{} (foldfs {}) {verb} in process {}, in place of foldfs {} in process {}\n",
        report.program, report.version, report.pid, report.old_version, report.old_pid
    )
}

fn init(report: &InitReport, would: Would) -> String {
    let verb = would.verb("made", "would be made");
    format!("store {} {verb}\n", report.store)
}

fn import(report: &ImportReport, would: Would) -> String {
    let relation = match (report.founded, would.0) {
        (true, false) => "founded family",
        (true, true) => "would found family",
        (false, false) => "joined family",
        (false, true) => "would join family",
    };
    format!(
        "{} {relation} {}: {}\n{} in {}; {} known already, {} new in {}\n",
        report.image,
        report.family,
        report.reason,
        bytes(report.logical_bytes),
        counted(report.inodes, "inode"),
        bytes(report.known_bytes),
        bytes(report.new_bytes),
        counted(report.new_objects, "object"),
    )
}

fn clone(report: &CloneReport, would: Would) -> String {
    let mut out = format!(
        "{} {} in family {}: {} private {}, {}, {} copied\n",
        report.image,
        would.verb("cloned", "would be cloned"),
        report.family,
        count(report.entries),
        if report.entries == 1 {
            "entry"
        } else {
            "entries"
        },
        counted(report.new_objects, "new object"),
        bytes(report.copied_bytes),
    );
    let Some(identity) = &report.identity else {
        return out;
    };
    out.push_str(match identity.paths.is_empty() {
        true => "it has nothing that is a machine's identity\n",
        false => would.verb(
            "its identity was reset:\n",
            "its identity would be reset:\n",
        ),
    });
    for reset in &identity.paths {
        let kind = match reset.kind {
            ResetKind::Removed => "removed  ",
            ResetKind::Emptied => "emptied  ",
            ResetKind::Rewritten => "rewritten",
        };
        out.push_str(&format!("  {kind}  {}\n", reset.path));
    }
    if let Some(hostname) = &identity.hostname {
        let verb = would.verb("is", "would be");
        out.push_str(&format!("its host name {verb} {hostname}\n"));
    }
    out
}

fn rename(report: &RenameReport, would: Would) -> String {
    format!(
        "{} {} {} {} {}\n",
        if report.family { "family" } else { "image" },
        report.from,
        would.verb("is", "would be"),
        "called",
        report.to
    )
}

fn remove(report: &RemoveReport, would: Would) -> String {
    let mut out = format!(
        "{} {}",
        report.image,
        would.verb("removed", "would be removed")
    );
    if report.family_removed {
        out.push_str(&format!(", and family {} with it", report.family));
    }
    if report.withdrawn > 0 {
        let versions = counted(report.withdrawn, "shared version");
        let verb = would.verb("went", "would go");
        out.push_str(&format!(
            "; {versions} {verb} into the images that still use them"
        ));
    }
    out.push('\n');
    out
}

fn fold(report: &FoldReport, would: Would) -> String {
    let mut table = Table::new(&[
        ("FAMILY", Align::Left),
        ("EXAMINED", Align::Right),
        ("UNCHANGED", Align::Right),
        ("IN USE", Align::Right),
        (would.verb("FOLDED", "WOULD FOLD"), Align::Right),
        ("BYTES", Align::Right),
        ("FREED", Align::Right),
        ("INTO SHARED", Align::Right),
        ("OUT OF SHARED", Align::Right),
    ]);
    for family in &report.families {
        table.row([
            family.family.clone(),
            count(family.examined),
            count(family.unchanged),
            count(family.busy_files),
            count(family.folded_files),
            bytes(family.folded_bytes),
            bytes(family.freed_bytes),
            count(family.shared_paths),
            count(family.unshared_paths),
        ]);
    }
    let unreadable = |family: &FamilyFold| {
        let files = counted(family.damaged_files, "private file");
        format!("family {}: {files} cannot be read\n", family.family)
    };
    let families = report.families.iter();
    let unreadable = families
        .filter(|family| family.damaged_files > 0)
        .map(unreadable);
    let unreadable: String = unreadable.collect();
    table.render() + &unreadable + &left_out(&report.left_out)
}

fn left_out(sentences: &[String]) -> String {
    let line = |sentence: &String| format!("left out: {sentence}\n");
    sentences.iter().map(line).collect()
}

fn collect(report: &CollectReport, would: Would) -> String {
    let mut out = String::new();
    if would.0 {
        for object in &report.removed {
            out.push_str(&format!("{}  {}\n", object.digest, bytes(object.bytes)));
        }
    }
    out.push_str(&format!(
        "{} of {} {}, {} {}\n",
        count(report.removed.len() as u64),
        counted(report.examined, "object"),
        would.verb("removed", "would be removed"),
        bytes(report.freed_bytes),
        would.verb("freed", "would be freed"),
    ));
    if !report.forgotten_changes.is_empty() {
        out.push_str(&format!(
            "{} {} not be taken back any more\n",
            counted(report.forgotten_changes.len() as u64, "change"),
            would.verb("can", "could"),
        ));
    }
    out
}

fn check(report: &CheckReport) -> String {
    let mut out = String::new();
    for repair in &report.repairs {
        out.push_str(&format!("{}: {}\n", repair.object, repair.done));
    }
    for finding in &report.findings {
        out.push_str(&format!("{}: {}", finding.object, finding.cause));
        if !finding.remedy.is_empty() {
            out.push_str(&format!("; {}", finding.remedy));
        }
        out.push('\n');
    }
    let entries = if report.entries == 1 {
        "entry"
    } else {
        "entries"
    };
    out.push_str(&format!(
        "{}: {}, {} {entries}, {}",
        if report.findings.is_empty() {
            "sound".to_owned()
        } else {
            counted(report.findings.len() as u64, "finding")
        },
        counted(report.images, "image"),
        count(report.entries),
        counted(report.objects, "object"),
    ));
    if report.content_bytes > 0 {
        out.push_str(&format!(" ({} read)", bytes(report.content_bytes)));
    }
    if !report.redundant.is_empty() {
        let private = counted(report.redundant.len() as u64, "private version");
        out.push_str(&format!("; {private} could go (foldfs fold)"));
    }
    out.push('\n');
    out
}

fn status(report: &StatusReport) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("FAMILY", Align::Left),
        ("ROLE", Align::Left),
        ("INODES", Align::Right),
        ("LOGICAL", Align::Right),
        ("SHARED", Align::Right),
        ("PRIVATE", Align::Right),
        ("STORED", Align::Right),
    ]);
    for image in &report.images {
        table.row([
            image.image.clone(),
            image.family.clone(),
            image.role.clone(),
            count(image.inodes),
            bytes(image.logical_bytes),
            bytes(image.shared_bytes),
            bytes(image.private_bytes),
            bytes(image.stored_bytes),
        ]);
    }
    let mut out = table.render();
    out.push_str(&format!(
        "\nlogical {}, unique {}",
        bytes(report.logical_bytes),
        bytes(report.unique_bytes)
    ));
    if let (Some(stored), Some(saved)) = (report.stored_bytes, report.saved_bytes) {
        out.push_str(&format!(
            ", stored {}{}; saved {}",
            bytes(stored),
            report
                .objects
                .map_or(String::new(), |n| format!(" ({})", counted(n, "object"))),
            signed_bytes(saved)
        ));
        let share = percent(saved, report.logical_bytes);
        if !share.is_empty() {
            out.push_str(&format!(" ({share})"));
        }
    }
    out.push('\n');
    if let Some(folding) = &report.folding {
        out.push_str(&passes(folding));
    }
    for digest in &report.damaged {
        out.push_str(&format!(
            "damaged: object {digest}; run `foldfs check --content`\n"
        ));
    }
    out + &left_out(&report.left_out)
}

fn passes(folding: &FoldingStatus) -> String {
    let next = folding.next.map_or(String::new(), |next| {
        format!("; the next one after {} UTC", date(next))
    });
    let mut out = format!(
        "passes so far {}: {} folded, {}{next}\n",
        count(folding.passes),
        counted(folding.folded_files, "file"),
        bytes(folding.folded_bytes)
    );
    if let Some(last) = &folding.last {
        out.push_str(&format!(
            "last pass with something new, {} UTC: {} looked at, {} folded, {} in use, \
             {} unreadable, {} altered a moment ago, {} held, {} ms\n",
            date(last.started),
            counted(last.examined, "file"),
            count(last.folded_files),
            count(last.busy_files),
            count(last.damaged_files),
            count(last.recent_files),
            count(last.held_files),
            count(last.milliseconds)
        ));
    }
    if let Some(error) = &folding.last_error {
        out.push_str(&format!("last pass failed: {error}\n"));
    }
    out
}

fn list(report: &ListReport) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("FAMILY", Align::Left),
        ("ROLE", Align::Left),
        ("SYSTEM", Align::Left),
        ("CREATED (UTC)", Align::Left),
        ("FROM", Align::Left),
        ("MOUNTED ON", Align::Left),
    ]);
    for image in &report.images {
        let family = report.families.iter().find(|f| f.name == image.family);
        let system = family.map_or(String::new(), |family| {
            let parts = [&family.os, &family.os_version, &family.architecture];
            let known: Vec<&str> = parts
                .into_iter()
                .map(String::as_str)
                .filter(|part| !part.is_empty())
                .collect();
            known.join(" ")
        });
        let mounted: Vec<String> = image.mounted.iter().map(PathBytes::to_string).collect();
        table.row([
            image.name.clone(),
            image.family.clone(),
            image.role.clone(),
            system,
            date(image.created),
            image.source.clone(),
            mounted.join(", "),
        ]);
    }
    table.render()
}

fn why(report: &WhyReport) -> String {
    let mut lines = vec![
        format!("{}: {} ({})", report.path, report.layer, report.role),
        format!("  why          {}", report.reason),
        format!("  number       {}", report.number),
        format!("  type         {}", report.file_type),
    ];
    if let Some(digest) = &report.digest {
        lines.push(format!("  content      {digest}"));
    }
    if let Some(stored) = &report.stored {
        lines.push(format!("  stored as    {stored}"));
    }
    if let Some(held) = &report.held {
        lines.push(format!("  held by      {held}"));
    }
    if let Some(pattern) = &report.locked {
        lines.push(format!("  locked by    {pattern}"));
    }
    for (label, images) in [
        ("shared with", &report.shared_with),
        ("differs in ", &report.differs_in),
        ("unreadable in", &report.unreadable_in),
    ] {
        if !images.is_empty() {
            lines.push(format!("  {label}  {}", images.join(", ")));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

fn export(report: &ExportReport) -> String {
    let what = match report.format {
        Format::Store => format!("store with {}", report.images.join(", ")),
        _ => report.image.clone(),
    };
    let mut out = format!("{what} written to {}\n", report.destination);
    for difference in &report.differences {
        out.push_str(&format!("overlayfs shows otherwise: {difference}\n"));
    }
    out
}

fn mounts(report: &MountReport, done: &str) -> String {
    let mut out = String::new();
    for mount in &report.mounts {
        let preposition = if done.contains("unmounted") {
            "from"
        } else {
            "on"
        };
        out.push_str(&format!(
            "{} {done} {preposition} {}\n",
            mount.image, mount.directory
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::report::{CollectedObject, Finding, ImageStatus, MountedImage, PassReport};

    #[test]
    fn a_plan_speaks_of_what_would_be() {
        let report = Report::Collect(CollectReport {
            examined: 3,
            removed: vec![CollectedObject {
                digest: "ab".into(),
                bytes: 2048,
            }],
            freed_bytes: 4096,
            forgotten_changes: Vec::new(),
        });
        assert_eq!(
            render(&report, true),
            "ab  2.0 KiB\n1 of 3 objects would be removed, 4.0 KiB would be freed\n"
        );
        assert_eq!(
            render(&report, false),
            "1 of 3 objects removed, 4.0 KiB freed\n"
        );
    }

    #[test]
    fn status_ends_in_what_is_saved() {
        let report = Report::Status(StatusReport {
            images: vec![ImageStatus {
                image: "web".into(),
                family: "debian".into(),
                role: "guest".into(),
                inodes: 9000,
                logical_bytes: 3 << 20,
                shared_bytes: 2 << 20,
                private_bytes: 1 << 20,
                stored_bytes: 1 << 20,
            }],
            logical_bytes: 3 << 20,
            unique_bytes: 3 << 20,
            stored_bytes: Some(1 << 20),
            saved_bytes: Some(2 << 20),
            objects: Some(1),
            folding: Some(FoldingStatus {
                passes: 1_200,
                folded_files: 1,
                folded_bytes: 1 << 20,
                next: Some(60),
                last: Some(PassReport {
                    examined: 2_000,
                    folded_files: 1,
                    busy_files: 2,
                    recent_files: 3,
                    milliseconds: 15,
                    ..PassReport::default()
                }),
                last_error: Some("objects: no space".into()),
                ..FoldingStatus::default()
            }),
            damaged: Vec::new(),
            left_out: vec!["image \"web\": images/2: gone".into()],
        });
        assert_eq!(
            render(&report, false),
            "IMAGE  FAMILY  ROLE   INODES  LOGICAL   SHARED  PRIVATE   STORED\n\
             web    debian  guest   9,000  3.0 MiB  2.0 MiB  1.0 MiB  1.0 MiB\n\
             \n\
             logical 3.0 MiB, unique 3.0 MiB, stored 1.0 MiB (1 object); saved 2.0 MiB (66.7 %)\n\
             passes so far 1,200: 1 file folded, 1.0 MiB; the next one after 1970-01-01 00:01 UTC\n\
             last pass with something new, 1970-01-01 00:00 UTC: 2,000 files looked at, 1 folded, \
             2 in use, 0 unreadable, 3 altered a moment ago, 0 held, 15 ms\n\
             last pass failed: objects: no space\n\
             left out: image \"web\": images/2: gone\n"
        );
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        let report = Report::Check(CheckReport {
            images: 1,
            entries: 1,
            objects: 0,
            content_bytes: 0,
            findings: vec![Finding {
                object: b"web: \x1b[2J".as_slice().into(),
                cause: "a whiteout that hides nothing".into(),
                remedy: String::new(),
            }],
            redundant: Vec::new(),
            repairs: Vec::new(),
        });
        assert!(report.has_findings());
        assert_eq!(
            render(&report, false),
            "web: \\u{1b}[2J: a whiteout that hides nothing\n\
             1 finding: 1 image, 1 entry, 0 objects\n"
        );
    }

    #[test]
    fn mounts_name_their_directories() {
        let report = MountReport {
            mounts: vec![MountedImage {
                image: "web".into(),
                directory: b"/mnt/web".as_slice().into(),
            }],
        };
        let text = render(&Report::Mount(report.clone()), false);
        assert_eq!(text, "web mounted on /mnt/web\n");
        let text = render(&Report::Unmount(report), true);
        assert_eq!(text, "web would be unmounted from /mnt/web\n");
    }
}
