//! From a request to its operation.

use super::context::Context;
use super::fold::Options;
use super::history::Begun;
use super::patch::Source;
use super::report::{FoldReport, Report};
use super::request::{Call, Request};
use crate::archive::StagedImport;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::Access;

/// Performs a call in the process that has the store open: for writing, unless the call is a dry
/// run or alters nothing. Calls that alter the store wait for each other.
///
/// # Errors
/// The operation's. Mounting and unmounting are the daemon's, not operations: they are refused.
pub fn perform(context: &Context, call: &Call, progress: &dyn Progress) -> Result<Report> {
    operate(context, call, progress).map_err(|error| super::damaged::named(context, error))
}

fn operate(context: &Context, call: &Call, progress: &dyn Progress) -> Result<Report> {
    let dry_run = call.dry_run;
    let _alone = (call.request.alters() && !dry_run).then(|| {
        let alone = context.alone();
        super::patch::finish_left(context);
        alone
    });
    match &call.request {
        Request::Rename { from, to } => {
            let plan = super::rename::plan(context, from, to)?;
            if !dry_run {
                super::rename::apply(context, &plan)?;
            }
            Ok(Report::Rename(plan.report()))
        }
        Request::CommitImport {
            staged,
            name,
            family,
            share,
            source,
        } => {
            let staged = staged.as_path().to_string_lossy();
            let tree = StagedImport::open(&context.store, &staged)?;
            let options = super::import::Options {
                name: name.clone(),
                family: family.clone(),
                share: *share,
                source: source.clone(),
            };
            let plan = super::import::plan(context, &tree, &options)?;
            if !dry_run {
                super::import::apply(context, &tree, &plan, progress)?;
            }
            Ok(Report::Import(plan.report(&tree)))
        }
        Request::Remove { name } => {
            let plan = super::remove::plan(context, name)?;
            let report = match dry_run {
                true => plan.report(),
                false => super::remove::apply(context, &plan, progress)?,
            };
            Ok(Report::Remove(report))
        }
        Request::Clone {
            from,
            to,
            frozen,
            reset,
        } => {
            let options = super::clone::Options {
                from: from.clone(),
                to: to.clone(),
                frozen: *frozen,
                reset: reset.clone(),
            };
            let plan = super::clone::plan(context, &options)?;
            let report = match dry_run {
                true => plan.report(),
                false => super::clone::apply(context, &plan, progress)?,
            };
            Ok(Report::Clone(report))
        }
        Request::ExportStore {
            name,
            images,
            destination,
        } => {
            let options = super::export_store::Options {
                name: name.clone(),
                images: images.clone(),
                destination: destination.as_path().to_owned(),
            };
            let plan = super::export_store::plan(context, &options)?;
            super::export_store::apply(context, &plan, progress).map(Report::Export)
        }
        Request::Fold { family } => {
            let family = family.clone();
            fold(context, Options { family }, dry_run, progress).map(Report::Fold)
        }
        Request::Work { family, anew } => {
            let plan = super::working::plan(context, family, *anew)?;
            let report = match dry_run {
                true => plan.report(),
                false => super::working::apply(context, &plan, progress)?,
            };
            Ok(Report::Working(report))
        }
        Request::Discard { family } => {
            let plan = super::working::plan_discard(context, family)?;
            let report = match dry_run {
                true => plan.report(),
                false => super::remove::apply(context, &plan, progress)?,
            };
            Ok(Report::Remove(report))
        }
        Request::Apply { .. } => apply(context, &call.request, dry_run, progress),
        Request::Changes {
            family,
            last,
            change,
            stat,
        } => {
            let report = super::patch::changes(context, family, (*last, *change), *stat)?;
            Ok(Report::Changes(report))
        }
        Request::Log { last } => super::history::log(context, *last).map(Report::Log),
        Request::Hold { image, paths } => {
            let plan = super::hold::plan(context, image, paths)?;
            let report = match dry_run || paths.is_empty() {
                true => super::hold::survey(context, &plan, progress)?,
                false => super::hold::apply(context, &plan, progress)?,
            };
            Ok(Report::Hold(report))
        }
        Request::Release { image, paths } => {
            let plan = super::hold::plan_release(context, image, paths)?;
            if !dry_run {
                super::hold::release(context, &plan)?;
            }
            Ok(Report::Release(plan.report()))
        }
        Request::Lock { .. } | Request::Unlock { .. } => {
            lock(context, &call.request, dry_run, progress)
        }
        Request::Check { content } => {
            let options = super::check::Options { content: *content };
            // Another process may be altering the store.
            let reads = context.store.access() == Access::Read;
            let _placement = reads.then(|| context.store.keep_placement()).transpose()?;
            super::check::run(context, options, progress).map(Report::Check)
        }
        Request::Why { image, path } => super::why::why(context, image, path).map(Report::Why),
        Request::Collect { keep_changes } => {
            let plan = super::collect::plan(context, *keep_changes, progress)?;
            let report = if dry_run {
                plan.report()
            } else {
                super::collect::apply(context, &plan)?
            };
            Ok(Report::Collect(report))
        }
        Request::Status { name } => {
            super::status::status(context, name.as_deref(), progress).map(Report::Status)
        }
        Request::List => super::list::list(context).map(Report::List),
        Request::Metrics => Err(Error::failed("metrics", "no daemon serves the store")
            .remedy("mount an image, or start `foldfs daemon`")),
        Request::Mount { .. } | Request::Unmount { .. } | Request::ReplaceDaemon { .. } => {
            Err(Error::failed("mounting", "only a daemon can do it"))
        }
    }
}

fn lock(
    context: &Context,
    request: &Request,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Report> {
    let (Request::Lock {
        family,
        patterns,
        adopt,
    }
    | Request::Unlock {
        family,
        patterns,
        adopt,
    }) = request
    else {
        return Err(Error::failed("lock", "this is no request to lock"));
    };
    let options = super::lock::Options {
        family: family.clone(),
        patterns: patterns.clone(),
        adopt: *adopt,
    };
    let locks = matches!(request, Request::Lock { .. });
    let plan = match locks {
        true => super::lock::plan(context, &options, progress)?,
        false => super::lock::plan_unlock(context, &options, progress)?,
    };
    let report = match dry_run || patterns.is_empty() {
        true => plan.report(),
        false => super::lock::apply(context, plan, progress)?,
    };
    Ok(match locks {
        true => Report::Lock(report),
        false => Report::Unlock(report),
    })
}

fn apply(
    context: &Context,
    request: &Request,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Report> {
    let Request::Apply {
        source,
        family,
        images,
        on_conflict,
        who,
        why,
    } = request
    else {
        return Err(Error::failed("change", "this is no request to make one"));
    };
    let options = super::patch::ApplyOptions {
        source: source.clone(),
        family: family.clone(),
        images: images.clone(),
        on_conflict: *on_conflict,
        who: who.clone(),
        why: why.clone(),
    };
    // Whoever works in it now may do so until it is unmounted, after what is committed was looked at.
    let unmounted = || match source {
        Source::Working { family, .. } => super::working::unmounted(context, family),
        _ => None,
    };
    let before = unmounted();
    if !dry_run {
        super::patch::make_objects(context, source, progress)?;
    }
    let plan = super::patch::plan(context, &options, progress)?;
    let report = match dry_run {
        true => plan.report(None),
        false => super::patch::apply(context, plan, progress)?,
    };
    // What the base itself keeps stands in the working tree only.
    let reaches_base = report
        .images
        .first()
        .is_some_and(|base| base.conflicts.is_empty());
    let ended = before.is_some() && unmounted() == before;
    let is_over = report.applied && !dry_run && reaches_base && ended;
    if let (Source::Working { family, .. }, true) = (source, is_over)
        && let Err(error) = super::working::end(context, family, progress)
    {
        log::warn!("the change is made, but its working tree stays: {error}");
    }
    Ok(Report::Apply(report))
}

fn fold(
    context: &Context,
    options: Options,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<FoldReport> {
    if dry_run {
        return super::fold::plan(context, &options, progress)?.report(context, progress);
    }
    let begun = Begun::now();
    let outcome = super::fold::plan(context, &options, progress)
        .and_then(|plan| super::fold::apply(context, &plan, progress));
    begun.fold(context, options.family.as_deref(), &outcome);
    outcome
}
