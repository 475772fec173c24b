//! From a request to its operation.

use super::context::Context;
use super::report::Report;
use super::request::{Call, Request};
use super::{check, list, rename, why};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Performs a call in the process that has the store open: for writing, unless the call is a dry
/// run or alters nothing. Calls that alter the store wait for each other.
///
/// # Errors
/// The operation's. Mounting and unmounting are the daemon's, not operations: they are refused.
pub fn perform(context: &Context, call: &Call, progress: &dyn Progress) -> Result<Report> {
    let dry_run = call.dry_run;
    let _alone = (call.request.alters() && !dry_run).then(|| context.alone());
    match &call.request {
        Request::Rename { from, to } => {
            let plan = rename::plan(context, from, to)?;
            if !dry_run {
                rename::apply(context, &plan)?;
            }
            Ok(Report::Rename(plan.report()))
        }
        Request::Check { content } => {
            let options = check::Options { content: *content };
            check::run(context, options, progress).map(Report::Check)
        }
        Request::Why { image, path } => why::why(context, image, path).map(Report::Why),
        Request::List => list::list(context).map(Report::List),
        Request::Mount { .. } | Request::Unmount { .. } => {
            Err(Error::failed("mounting", "only a daemon can do it"))
        }
        other => Err(Error::failed(
            format!("{other:?}"),
            "this build cannot do it yet",
        )),
    }
}
