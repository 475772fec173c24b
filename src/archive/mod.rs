//! What goes into a store and comes out of it: directories and tar archives.
//!
//! An import has two halves. The first, all of which stands here, reads a source and **stages** it:
//! contents that the store lacks, and a scratch database with the tree ([`staged`]). It changes
//! nothing that a view shows and does not need the store's lock. The second, which makes an
//! image of it, is short (`ops`).
//!
//! ```text
//! directory ─┐                    ┌─ staging/NAME/objects/DIGEST   (intake)
//!            ├─ numbers, content ─┤
//! tar ───────┘                    └─ staging/NAME/tree.db          (tree_writer) ─► StagedImport
//!
//! StagedImport, an image's view ──► ViewSource ──► directory, tar, layers of an overlayfs
//!
//! directory, an image's view ──► merge::compare::Tree ──► differences ──► patch
//! ```

mod compared_directory;
mod compared_layer;
mod compared_past;
mod compared_staged;
mod compared_view;
mod directory;
mod directory_stack;
mod export_directory;
mod export_overlay;
mod export_tar;
mod identity;
mod intake;
mod numbers;
mod overlay_layer;
mod overlay_shared;
pub mod patch;
mod source_file;
mod staged;
mod staging;
mod tar_field;
mod tar_input;
mod tar_member;
mod tar_record;
mod tar_source;
mod tar_sparse;
mod tar_tree;
mod tree_writer;
mod view_source;
mod walk;

pub use compared_directory::ComparedDirectory;
pub use compared_layer::ComparedLayer;
pub use compared_past::{ComparedPast, Past};
pub use compared_staged::ComparedStaged;
pub use compared_view::{ComparedView, Standing};
pub use directory::{import_directory, stage_directory};
pub use export_directory::{Target as ExportTarget, Work as ExportWork, export_directory};
pub use export_overlay::export_overlay;
pub use export_tar::export_tar;
pub use identity::Identity;
pub use staged::{StagedImport, Statistics};
pub use staging::Purpose;
pub use tar_input::is_archive;
pub use tar_source::{import_tar, stage_tar, stage_view};
pub use view_source::{ImageSource, ViewEntry, ViewSource, ViewVisitor};

/// How the names of imports in `staging/` begin.
pub const IMPORT: &str = "import";
