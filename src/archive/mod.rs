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
//! ```

mod directory;
mod identity;
mod intake;
mod numbers;
mod source_file;
mod staged;
mod staging;
mod tree_writer;
mod walk;

pub use directory::import_directory;
pub use identity::Identity;
/// How the names of imports in `staging/` begin.
pub const IMPORT: &str = "import";

pub use staged::{StagedImport, Statistics};
