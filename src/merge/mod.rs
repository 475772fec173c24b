//! What an image looks like: the private layer over the shared one. Stateless, no inodes, no
//! kernel; docs/format.md, "What a name means", is implemented here and nowhere else.

pub mod compare;
pub mod join;
pub mod list;
pub mod locate;
pub mod locked;
pub mod locks;
pub mod lookup;
pub mod placement;
pub mod private_directories;
pub mod private_tree;
pub mod shared_names;
pub mod version;
pub mod view;
pub mod walk;
