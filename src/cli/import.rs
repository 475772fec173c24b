//! import: the source is read, hashed and staged in this process; the daemon, if one runs, only
//! makes the image of it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Outcome;
use super::arguments::DryRun;
use super::interrupt::Interrupt;
use super::session::Session;
use crate::archive::{self, Purpose, StagedImport};
use crate::error::{Context as _, Error, Result};
use crate::ops;
use crate::ops::report::Report;
use crate::ops::request::{Call, Request};
use crate::path_bytes::PathBytes;
use crate::progress::Progress;
use crate::store::catalog::{Reads, Share, check_name};
use crate::store::{Access, Store};

/// Make an image of a directory or a tar archive
///
/// Without --family it joins the family that is most similar (the operating system's name,
/// version and architecture, then the share of equal files) and says why; where none is, it
/// founds one, with the imported tree as its base.
#[derive(Debug, Args)]
pub struct Import {
    /// The new image's name
    name: String,
    /// A directory; a tar archive, plain or compressed with gzip, xz or zstd; `-` for an archive
    /// on standard input; with --image, another store
    source: PathBuf,
    /// Take this image of the store that SOURCE is, or a family's base
    #[arg(long, value_name = "IMAGE|FAMILY")]
    image: Option<String>,
    /// Join this family, or found it if there is none of that name
    #[arg(long, value_name = "FAMILY")]
    family: Option<String>,
    /// What a family founded now shares [default: the configuration's `share`, majority]
    #[arg(long, value_name = "RULE", value_parser = share)]
    share: Option<Share>,
    #[command(flatten)]
    dry: DryRun,
}

fn share(text: &str) -> std::result::Result<Share, String> {
    Share::from_name(text).ok_or_else(|| String::from("use \"majority\" or \"all\""))
}

impl Import {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let store = Arc::new(Store::open(session.store(), Access::Read)?);
        self.check_name(&store)?;
        let progress = session.progress();
        let interrupt = Interrupt::watch(&store, &format!("import {}", self.name), session.json)?;
        let staged = self.stage(session, &store, &*progress);
        // Also after an error: it may come from what the interrupt takes away.
        interrupt.past_the_point();
        let staged = staged?;
        for warning in staged.warnings() {
            log::warn!("{}: {warning}", self.source.display());
        }
        let report = if self.dry.dry_run {
            self.foresee(session, &staged)?
        } else {
            let request = Request::CommitImport {
                staged: staged.name().as_bytes().into(),
                name: self.name.clone(),
                family: self.family.clone(),
                share: self.share.unwrap_or(session.config.share),
                source: self.source(),
            };
            let call = Call {
                request,
                dry_run: false,
            };
            session.perform(&call, &*progress)?
        };
        drop(progress);
        drop(staged);
        session.show(&report, self.dry.dry_run)
    }

    /// Where the image comes from, for people: it may be read elsewhere.
    fn source(&self) -> String {
        let image = self.image.as_ref();
        let image = image.map_or(String::new(), |image| format!(", image {image}"));
        match self.source.canonicalize() {
            _ if self.source.as_os_str() == "-" => String::from("standard input"),
            Ok(path) => PathBytes::from(path).to_string() + &image,
            Err(_) => PathBytes::from(self.source.clone()).to_string() + &image,
        }
    }

    fn foresee(&self, session: &Session, staged: &StagedImport) -> Result<Report> {
        let options = ops::import::Options {
            name: self.name.clone(),
            family: self.family.clone(),
            share: self.share.unwrap_or(session.config.share),
            source: self.source(),
        };
        let context = session.open(false)?;
        let plan = ops::import::plan(&context, staged, &options)?;
        Ok(Report::Import(plan.report(staged)))
    }

    /// What the commit would refuse anyway is refused before anything is read.
    fn check_name(&self, store: &Store) -> Result<()> {
        check_name(&self.name)?;
        if store.catalog().image_by_name(&self.name)?.is_some() {
            return Err(
                Error::failed(format!("name {:?}", self.name), "it exists already")
                    .remedy("choose another name"),
            );
        }
        Ok(())
    }

    fn stage(
        &self,
        session: &Session,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<StagedImport> {
        progress.message(&format!("reading {}", self.source.display()));
        let purpose = match self.dry.dry_run {
            true => Purpose::DryRun,
            false => Purpose::Commit,
        };
        if let Some(image) = &self.image {
            let from = Arc::new(Store::open(&self.source, Access::Read)?);
            if from.id() == store.id() {
                return Err(Error::usage(self.source.display(), "it is this store")
                    .remedy("foldfs clone makes an image of one that is here"));
            }
            let from = ops::Context::new(from, session.config.threads);
            let staged = ops::export::stage(&from, image, (store, purpose), progress);
            return staged.map_err(|error| ops::damaged::named(&from, error));
        }
        if self.source.as_os_str() != "-" {
            let about = self.source.display();
            if std::fs::metadata(&self.source).about(&about)?.is_dir() {
                return archive::stage_directory(store, &self.source, purpose, progress);
            }
        }
        archive::stage_tar(store, &self.source, purpose, progress)
    }
}
