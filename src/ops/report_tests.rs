//! docs/commands.md and the reports' keys are the same.

use serde_json::Value;

use super::export::Format;
use super::patch::Conflict;
use super::report::*;
use crate::path_bytes::PathBytes;
use crate::store::catalog::Share;
use crate::store::digest::Digest;

const MANUAL: &str = include_str!("../../docs/commands.md");

fn path() -> PathBytes {
    b"/path".as_slice().into()
}

fn text() -> String {
    String::from("text")
}

fn finding() -> Finding {
    Finding {
        object: path(),
        cause: text(),
        remedy: text(),
    }
}

fn mount() -> MountReport {
    MountReport {
        mounts: vec![MountedImage {
            image: text(),
            directory: path(),
        }],
    }
}

fn lock() -> LockReport {
    LockReport {
        family: text(),
        listed: false,
        changed: vec![text()],
        patterns: vec![text()],
        paths: 1,
        differences: vec![LockedDifference {
            image: text(),
            path: path(),
            kind: text(),
        }],
        more_differences: 1,
    }
}

fn side() -> DiffSide {
    DiffSide {
        file_type: text().into(),
        size: 1,
        digest: Some(Digest::of(b"x")),
        target: Some(path()),
        device: 1,
        mode: 1,
        uid: 1,
        gid: 1,
        mtime: 1,
        mtime_nanoseconds: 1,
    }
}

fn diff() -> DiffReport {
    DiffReport {
        old: path(),
        new: path(),
        equal: false,
        counts: DiffCounts::default(),
        counts_only: false,
        differences: vec![DiffEntry {
            path: path(),
            kind: text().into(),
            from: Some(path()),
            aspects: vec![text().into()],
            old: Some(side()),
            new: Some(side()),
            text: Some(text()),
        }],
    }
}

/// One of each, with nothing empty.
fn samples() -> Vec<Report> {
    vec![
        Report::Init(InitReport {
            store: path(),
            id: Some(text()),
        }),
        Report::Import(ImportReport {
            image: text(),
            family: text(),
            founded: true,
            reason: text(),
            inodes: 1,
            logical_bytes: 1,
            known_bytes: 1,
            new_objects: 1,
            new_bytes: 1,
        }),
        Report::Clone(CloneReport {
            image: text(),
            family: text(),
            entries: 1,
            new_objects: 1,
            copied_bytes: 1,
            identity: Some(IdentityReport {
                hostname: Some(text()),
                paths: vec![ResetPath {
                    path: path(),
                    kind: ResetKind::Removed,
                }],
            }),
        }),
        Report::Remove(RemoveReport {
            image: text(),
            family: text(),
            family_removed: true,
            withdrawn: 1,
        }),
        Report::Hold(HoldReport {
            image: text(),
            listed: false,
            paths: vec![HeldPath {
                path: path(),
                exists: true,
                inodes: 1,
                shared_inodes: 1,
                shared_bytes: 1,
            }],
        }),
        Report::Release(ReleaseReport {
            image: text(),
            paths: vec![path()],
        }),
        Report::Lock(lock()),
        Report::Unlock(lock()),
        Report::Log(LogReport {
            entries: vec![LogEntry {
                by: text(),
                family: Some(text()),
                done: PassReport::default(),
                error: Some(text()),
            }],
        }),
        Report::Changes(ChangesReport {
            family: text(),
            changes: vec![ChangeReport {
                change: 2,
                time: 1,
                who: text(),
                kind: text(),
                source: text(),
                why: text(),
                taken_back: Some(1),
                kept: Some(KeptChange {
                    paths: 1,
                    images: vec![text()],
                    changes: Some(diff()),
                }),
            }],
        }),
        Report::Metrics(MetricsReport { text: text() }),
        Report::Why(WhyReport {
            image: text(),
            path: path(),
            number: 1,
            file_type: text(),
            layer: text(),
            role: text(),
            reason: text(),
            digest: Some(text()),
            stored: Some(path()),
            held: Some(path()),
            locked: Some(text()),
            shared_with: vec![text()],
            differs_in: vec![text()],
            unreadable_in: vec![text()],
        }),
        Report::Rename(RenameReport {
            from: text(),
            to: text(),
            family: true,
        }),
        Report::Fold(FoldReport {
            families: vec![FamilyFold::default()],
            left_out: vec![text()],
        }),
        Report::Collect(CollectReport {
            examined: 1,
            removed: vec![CollectedObject {
                digest: text(),
                bytes: 1,
            }],
            freed_bytes: 1,
            forgotten_changes: vec![1],
        }),
        Report::Check(CheckReport {
            findings: vec![finding()],
            redundant: vec![finding()],
            repairs: vec![Repair {
                object: path(),
                done: text(),
            }],
            ..CheckReport::default()
        }),
        Report::Status(StatusReport {
            images: vec![ImageStatus {
                image: text(),
                family: text(),
                role: text(),
                inodes: 1,
                logical_bytes: 1,
                shared_bytes: 1,
                private_bytes: 1,
                stored_bytes: 1,
            }],
            logical_bytes: 1,
            unique_bytes: 1,
            stored_bytes: Some(1),
            saved_bytes: Some(1),
            objects: Some(1),
            folding: Some(FoldingStatus {
                last: Some(PassReport::default()),
                last_error: Some(text()),
                ..FoldingStatus::default()
            }),
            damaged: vec![text()],
            left_out: vec![text()],
        }),
        Report::List(ListReport {
            families: vec![ListedFamily {
                name: text(),
                os: text(),
                os_version: text(),
                architecture: text(),
                share: Share::Majority,
                created: 1,
                shared_inodes: 1,
            }],
            images: vec![ListedImage {
                name: text(),
                family: text(),
                role: text(),
                created: 1,
                source: text(),
                mounted: vec![path()],
            }],
        }),
        Report::Diff(diff()),
        Report::Patch(PatchReport {
            file: path(),
            format: 1,
            bytes: 1,
            signed_by: Some(text()),
            accepted: true,
            contents: PatchContents::default(),
            changes: diff(),
        }),
        Report::Apply(ApplyReport {
            source: text(),
            family: text(),
            change: Some(1),
            applied: true,
            paths: 1,
            images: vec![AppliedImage {
                replaced: vec![path()],
                merged: vec![path()],
                image: text(),
                changed: 1,
                unchanged: 1,
                conflicts: vec![AppliedConflict {
                    path: path(),
                    reason: Conflict::NotEmpty,
                }],
                processes: vec![RunningProcess {
                    pid: 1,
                    command: path(),
                    path: path(),
                }],
            }],
        }),
        Report::Export(ExportReport {
            image: text(),
            images: vec![text()],
            destination: path(),
            format: Format::Overlay,
            differences: vec![text()],
        }),
        Report::Mount(mount()),
        Report::Unmount(mount()),
        Report::ReplaceDaemon(ReplaceReport {
            program: path(),
            version: text(),
            pid: 1,
            old_version: text(),
            old_pid: 1,
        }),
    ]
}

/// The manual's section about a report.
fn section(report: &str) -> &'static str {
    let sections = MANUAL.split("\n### ").skip(1);
    let mut found = sections.filter(|section| {
        let heading = section.lines().next().unwrap_or_default();
        heading.split(", ").any(|name| name == report)
    });
    found
        .next()
        .unwrap_or_else(|| panic!("docs/commands.md has no section {report}"))
}

fn keys(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.push(key.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_manual_lists_every_key() {
    for report in samples() {
        let value = serde_json::to_value(&report).unwrap();
        let name = value["report"].as_str().unwrap().to_owned();
        let section = section(&name);
        let mut found = Vec::new();
        keys(&value, &mut found);
        for key in found.iter().filter(|key| *key != "report") {
            assert!(section.contains(&format!("`{key}`")), "{name}: {key}");
        }
    }
}

#[test]
fn reports_come_back_as_they_went() {
    for report in samples() {
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
