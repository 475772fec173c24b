//! The operations on a store: each has options, a plan that can be printed, and its application.

pub mod boot;
pub mod check;
pub mod clone;
pub mod collect;
#[cfg(test)]
mod collect_tests;
mod context;
pub mod damaged;
pub mod diff;
pub mod export;
pub mod export_store;
pub mod fold;
mod history;
pub mod hold;
pub mod identity;
pub mod import;
pub mod init;
pub mod list;
pub mod lock;
mod new_layer;
pub mod passes;
pub mod patch;
mod path;
mod perform;
pub mod place;
mod references;
pub mod remove;
pub mod rename;
pub mod repair;
pub mod report;
mod report_diff;
mod report_identity;
mod report_lock;
mod report_patch;
#[cfg(test)]
mod report_tests;
pub mod request;
mod similar;
pub mod status;
pub mod tally;
pub mod why;
pub mod working;

pub use context::Context;
pub use perform::perform;

use crate::error::Error;
use crate::store::metadata::FileType;

/// There is no image or family of that name.
fn unknown_name(name: &str) -> Error {
    Error::failed(format!("{name:?}"), "there is no such image or family")
        .remedy("foldfs list shows all")
}

/// A file type as find(1) names it.
fn letter(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "d",
        FileType::Regular => "f",
        FileType::Symlink => "l",
        FileType::CharDevice => "c",
        FileType::BlockDevice => "b",
        FileType::Fifo => "p",
        FileType::Socket => "s",
    }
}
