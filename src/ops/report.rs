//! What a request comes back with: what `--json` prints, and the command line's tables are made
//! of. The keys are documented in docs/commands.md and stable: keys are added, never changed.
//! Sizes are bytes; times are seconds since 1970.

use serde::{Deserialize, Serialize};

use super::export::Format;
pub use super::report_diff::{DiffCounts, DiffEntry, DiffReport, DiffSide};
pub use super::report_identity::{IdentityReport, ResetKind, ResetPath};
pub use super::report_lock::{LockReport, LockedDifference};
pub use super::report_patch::{
    AppliedConflict, AppliedImage, ApplyReport, ChangeReport, ChangesReport, KeptChange,
    PatchContents, PatchReport, RunningProcess,
};
use crate::path_bytes::PathBytes;
use crate::store::catalog::Share;

/// The answer to a [`Request`](super::request::Request) of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// Of `foldfs init`, which is no request: there is no store yet.
    Init(InitReport),
    /// To `CommitImport`.
    Import(ImportReport),
    /// To `Clone`.
    Clone(CloneReport),
    /// To `Rename`.
    Rename(RenameReport),
    /// To `Remove` and `Discard`.
    Remove(RemoveReport),
    /// To `Work`.
    Working(WorkingReport),
    /// To `Fold`.
    Fold(FoldReport),
    /// To `Hold`.
    Hold(HoldReport),
    /// To `Release`.
    Release(ReleaseReport),
    /// To `Lock`.
    Lock(LockReport),
    /// To `Unlock`.
    Unlock(LockReport),
    /// To `Log`.
    Log(LogReport),
    /// To `Changes`.
    Changes(ChangesReport),
    /// To `Metrics`.
    Metrics(MetricsReport),
    /// To `Collect`.
    Collect(CollectReport),
    /// To `Check`.
    Check(CheckReport),
    /// To `Status`.
    Status(StatusReport),
    /// To `List`.
    List(ListReport),
    /// To `Why`.
    Why(WhyReport),
    /// Of `foldfs diff`, which is no request: it only reads.
    Diff(DiffReport),
    /// Of `foldfs patch create` and `patch show`, which are no requests: they alter no store.
    Patch(PatchReport),
    /// To `Apply`.
    Apply(ApplyReport),
    /// To `ExportStore`; of the other formats of `foldfs export`, which are no requests.
    Export(ExportReport),
    /// To `Mount`.
    Mount(MountReport),
    /// To `Unmount`.
    Unmount(MountReport),
    /// To `ReplaceDaemon`.
    ReplaceDaemon(ReplaceReport),
}

impl Report {
    /// Whether the command found something that somebody has to look at: exit code 3.
    pub fn has_findings(&self) -> bool {
        match self {
            Report::Check(check) => !check.findings.is_empty(),
            Report::Diff(diff) => !diff.equal,
            Report::Apply(apply) => apply.images.iter().any(|image| !image.conflicts.is_empty()),
            Report::Patch(patch) => !patch.accepted,
            Report::Lock(lock) | Report::Unlock(lock) => !lock.differences.is_empty(),
            Report::Fold(fold) => !fold.left_out.is_empty(),
            Report::Status(status) => !status.left_out.is_empty(),
            _ => false,
        }
    }
}

/// A family has a working tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingReport {
    /// The family.
    pub family: String,
    /// The image that is it.
    pub image: String,
    /// It was not there before.
    pub made: bool,
}

/// A store was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReport {
    /// Its directory.
    pub store: PathBytes,
    /// Its id, 32 hexadecimal digits; `None` in a dry run.
    pub id: Option<String>,
}

/// An image was made of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportReport {
    /// The image.
    pub image: String,
    /// Its family.
    pub family: String,
    /// The family was founded, with the imported tree as its base.
    pub founded: bool,
    /// Why this family: os-release and the share of equal files, in a sentence.
    pub reason: String,
    /// Inodes that the image shows.
    pub inodes: u64,
    /// Sum of the sizes of its regular files, each inode once.
    pub logical_bytes: u64,
    /// Of these, content that was in the store already.
    pub known_bytes: u64,
    /// Objects that are new in the store.
    pub new_objects: u64,
    /// Sum of their sizes.
    pub new_bytes: u64,
}

/// An image was cloned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloneReport {
    /// The new image.
    pub image: String,
    /// Its family.
    pub family: String,
    /// Private entries that it has of its origin.
    pub entries: u64,
    /// Closed private files of the origin that became objects, without being copied.
    pub new_objects: u64,
    /// Bytes that had to be copied: files open for writing, where there are no reflinks.
    pub copied_bytes: u64,
    /// What was reset, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityReport>,
}

/// An image or a family has another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameReport {
    /// The name it had.
    pub from: String,
    /// The name it has.
    pub to: String,
    /// A family (and its base) was renamed, not a guest's image.
    pub family: bool,
}

/// An image was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReport {
    /// The image.
    pub image: String,
    /// The family it belonged to.
    pub family: String,
    /// The family went with it.
    pub family_removed: bool,
    /// Shared versions that left the shared layer, for the images that still use them: too few hold
    /// them now.
    pub withdrawn: u64,
}

/// What a fold did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldReport {
    /// For each family that was folded.
    pub families: Vec<FamilyFold>,
    /// What was left out because it is damaged, a sentence each.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// What a fold did in one family.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FamilyFold {
    /// The family.
    pub family: String,
    /// Private files that were looked at.
    pub examined: u64,
    /// Of these, files whose digest was known from the last time.
    pub unchanged: u64,
    /// Private files whose content became an object, or was one, and is kept once now.
    pub folded_files: u64,
    /// Sum of their sizes.
    pub folded_bytes: u64,
    /// Allocated bytes that this set free.
    pub freed_bytes: u64,
    /// Private files left alone because they were in use.
    pub busy_files: u64,
    /// Private files left alone because they, or the object that they equal, cannot be read.
    #[serde(default)]
    pub damaged_files: u64,
    /// Private files left alone because they are held.
    pub held_files: u64,
    /// Paths whose most common version moved into the shared layer.
    pub shared_paths: u64,
    /// Paths that left the shared layer, or changed their version there.
    pub unshared_paths: u64,
}

/// What of an image is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// The image.
    pub image: String,
    /// No path was given: these are all that are held.
    pub listed: bool,
    /// The paths.
    pub paths: Vec<HeldPath>,
}

/// A held path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPath {
    /// From the image's root.
    pub path: PathBytes,
    /// There is something at that path now.
    pub exists: bool,
    /// Inodes at that path and below it, but directories.
    pub inodes: u64,
    /// Of these, how many are, or were until now, shared or of shared content.
    pub shared_inodes: u64,
    /// Bytes of their content, which holding them copies.
    pub shared_bytes: u64,
}

/// What is not held any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReport {
    /// The image.
    pub image: String,
    /// The paths.
    pub paths: Vec<PathBytes>,
}

/// What a daemon's pass did, over all families.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PassReport {
    /// When it began; seconds since 1970.
    pub started: i64,
    /// How long it took.
    pub milliseconds: u64,
    /// Images of which all private files were looked at, because it was not known which were altered.
    pub whole_images: u64,
    /// Private files that were looked at.
    pub examined: u64,
    /// Private files whose content is kept once now.
    pub folded_files: u64,
    /// Sum of their sizes.
    pub folded_bytes: u64,
    /// Allocated bytes that this set free.
    pub freed_bytes: u64,
    /// Private files left alone because they were in use.
    pub busy_files: u64,
    /// Private files left alone because they, or the object that they equal, cannot be read.
    pub damaged_files: u64,
    /// Private files left alone because they were altered a moment ago.
    pub recent_files: u64,
    /// Private files left alone because they are held.
    pub held_files: u64,
    /// Paths whose most common version moved into the shared layer.
    pub shared_paths: u64,
    /// Paths that left the shared layer, or changed their version there.
    pub unshared_paths: u64,
    /// It ended early, because the daemon did.
    pub interrupted: bool,
    /// What was left out because it is damaged, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// What folds and passes did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The newest last.
    pub entries: Vec<LogEntry>,
}

/// What one fold or pass did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// `pass`: the daemon by itself; `fold`: somebody asked for it.
    pub by: String,
    /// Only this family was folded; `None`: all.
    pub family: Option<String>,
    /// What was done, as far as it is known.
    #[serde(flatten)]
    pub done: PassReport,
    /// Why it failed, if it did; what was done by then is not counted.
    pub error: Option<String>,
}

/// Another program serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceReport {
    /// The program.
    pub program: PathBytes,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The version of the one before.
    pub old_version: String,
    /// The process of the one before: the same, unless it died over it.
    pub old_pid: u32,
}

/// What a daemon did since it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsReport {
    /// OpenMetrics.
    pub text: String,
}

/// What a daemon folds by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FoldingStatus {
    /// From the end of a pass to the next; `None`: there are none.
    pub interval_seconds: Option<u64>,
    /// How long a file is left alone after it was altered.
    pub quiet_seconds: u64,
    /// Passes since the daemon was started.
    pub passes: u64,
    /// Of these, passes before which no image had been changed.
    pub passes_with_nothing_new: u64,
    /// How long the last of these took.
    pub nothing_new_microseconds: u64,
    /// Files folded by all of them.
    pub folded_files: u64,
    /// Sum of their sizes.
    pub folded_bytes: u64,
    /// The last one that had something to look at.
    pub last: Option<PassReport>,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
    /// When the next one begins; seconds since 1970.
    pub next: Option<i64>,
}

/// Objects were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Objects in the store before.
    pub examined: u64,
    /// The removed ones, by digest.
    pub removed: Vec<CollectedObject>,
    /// Allocated bytes that this set free.
    pub freed_bytes: u64,
    /// Changes that cannot be taken back any more.
    pub forgotten_changes: Vec<i64>,
}

/// An object that nothing referred to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedObject {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Size.
    pub bytes: u64,
}

/// What a check proved or found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckReport {
    /// Images that were walked.
    pub images: u64,
    /// Private and shared entries that were looked at.
    pub entries: u64,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes whose digest was computed and compared.
    pub content_bytes: u64,
    /// What is wrong. Empty: the store is sound.
    pub findings: Vec<Finding>,
    /// What is right but could be smaller: private entries that equal the shared ones.
    pub redundant: Vec<Finding>,
    /// What a repair has done, or would do. `findings` is what is left then.
    #[serde(default)]
    pub repairs: Vec<Repair>,
}

/// Something that a repair has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// What was wrong: a path below the store.
    pub object: PathBytes,
    /// What was done about it.
    pub done: String,
}

/// Something that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where: a path below the store, a path of an image, a table's row.
    pub object: PathBytes,
    /// What is wrong.
    pub cause: String,
    /// What to do; may be empty.
    pub remedy: String,
}

/// What images show and what they cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// For each image that was asked for, bases included.
    pub images: Vec<ImageStatus>,
    /// Sum of `logical_bytes` over these images without families' bases: what somebody put in.
    pub logical_bytes: u64,
    /// Content of the shared layers and private content of these images, each object once.
    pub unique_bytes: u64,
    /// Allocated bytes of the whole store, as `du` counts them; `None` if one name was asked for.
    pub stored_bytes: Option<u64>,
    /// `logical_bytes - stored_bytes`; negative where metadata outweighs what is shared.
    pub saved_bytes: Option<i64>,
    /// Objects in the store; `None` if one name was asked for.
    pub objects: Option<u64>,
    /// What the daemon folds by itself; `None` if it does not, or none runs.
    pub folding: Option<FoldingStatus>,
    /// Objects that the daemon has found damaged since it began: SHA-256, hexadecimal. They give EIO.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// Images that cannot be counted because they are damaged, a sentence each.
    #[serde(default)]
    pub left_out: Vec<String>,
}

/// What one image shows and what it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// The image.
    pub image: String,
    /// Its family.
    pub family: String,
    /// `base`, `guest` or `working`.
    pub role: String,
    /// Inodes that its view shows.
    pub inodes: u64,
    /// Sum of the sizes of the regular files that its view shows, each inode once.
    pub logical_bytes: u64,
    /// Of these, files that come from the shared layer.
    pub shared_bytes: u64,
    /// Of these, private entries: stubs and files.
    pub private_bytes: u64,
    /// Allocated bytes of its private layer: what would be free at once without it.
    pub stored_bytes: u64,
}

/// The families and images of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReport {
    /// All families.
    pub families: Vec<ListedFamily>,
    /// All images, bases included.
    pub images: Vec<ListedImage>,
}

/// A family in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFamily {
    /// Its name, and its base's.
    pub name: String,
    /// ID of os-release; empty if unknown.
    pub os: String,
    /// VERSION_ID of os-release; empty if unknown.
    pub os_version: String,
    /// As `uname -m` says it; empty if unknown.
    pub architecture: String,
    /// The rule of placement.
    pub share: Share,
    /// When it was founded.
    pub created: i64,
    /// Inodes of its shared layer.
    pub shared_inodes: u64,
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedImage {
    /// Its name.
    pub name: String,
    /// Its family.
    pub family: String,
    /// `base`, `guest` or `working`.
    pub role: String,
    /// When it was made.
    pub created: i64,
    /// The import's source, or the image it was cloned from.
    pub source: String,
    /// Where it is mounted now.
    pub mounted: Vec<PathBytes>,
}

/// What serves a path and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReport {
    /// The image.
    pub image: String,
    /// The path in its view.
    pub path: PathBytes,
    /// The inode number that the view shows.
    pub number: u64,
    /// The file type, as find(1) names it: f, d, l, c, b, p, s.
    pub file_type: String,
    /// `shared` or `private`.
    pub layer: String,
    /// What the entry is there: `shared`, `file`, `stub`, `own`, `merged`, `transparent`.
    pub role: String,
    /// Why it is where it is, in a sentence.
    pub reason: String,
    /// SHA-256 of the content, where it is an object.
    pub digest: Option<String>,
    /// Where the bytes are, below the store; of a directory its private part, if it has one.
    pub stored: Option<PathBytes>,
    /// The held path that it is, or is below of; `None` if it is not held.
    pub held: Option<PathBytes>,
    /// The pattern by which it, or another name of the file, is locked; `None` if it is not.
    #[serde(default)]
    pub locked: Option<String>,
    /// Images of the family that show the same version of the same path, this one not included.
    pub shared_with: Vec<String>,
    /// Images of the family that show another version, or none.
    pub differs_in: Vec<String>,
    /// Images of the family that are damaged there.
    #[serde(default)]
    pub unreadable_in: Vec<String>,
}

/// An image was written out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The image; of a store the family.
    pub image: String,
    /// All images that were written.
    pub images: Vec<String>,
    /// Where it is now.
    pub destination: PathBytes,
    /// What it has become.
    pub format: Format,
    /// What the kernel's overlayfs shows otherwise than the image does; of other formats nothing.
    pub differences: Vec<String>,
}

/// What was mounted or unmounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountReport {
    /// For each image.
    pub mounts: Vec<MountedImage>,
}

/// An image on a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// The image.
    pub image: String,
    /// The directory.
    pub directory: PathBytes,
}
