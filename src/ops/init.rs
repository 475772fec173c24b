//! init: an empty store.

use std::path::{Path, PathBuf};

use super::report::InitReport;
use crate::error::Result;
use crate::store::open::Store;

/// Where a store will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    path: PathBuf,
}

impl Plan {
    /// What is reported before.
    pub fn report(&self) -> InitReport {
        InitReport {
            store: self.path.clone().into(),
            id: None,
        }
    }
}

/// Looks whether a store can be made at `path`: a new or an empty directory.
///
/// # Errors
/// Those of [`Store::check_init`].
pub fn plan(path: &Path) -> Result<Plan> {
    Store::check_init(path)?;
    Ok(Plan {
        path: path.to_owned(),
    })
}

/// Makes it.
///
/// # Errors
/// Those of [`Store::init`].
pub fn apply(plan: &Plan) -> Result<InitReport> {
    let store = Store::init(&plan.path)?;
    Ok(InitReport {
        store: store.path().into(),
        id: Some(store.id().to_owned()),
    })
}
