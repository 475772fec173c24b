//! Single images: clone, rename, remove, export.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Outcome;
use super::arguments::DryRun;
use super::session::Session;
use crate::error::{Context as _, Error, Result};
use crate::ops;
use crate::ops::export::{Format, Options};
use crate::ops::identity;
use crate::ops::report::Report;
use crate::ops::request::Request;

/// Make a new image of an image or of a family's base, at once
#[derive(Debug, Args)]
pub struct Clone {
    /// An image, or a family: its base
    #[arg(value_name = "IMAGE|FAMILY")]
    from: String,
    /// The new image's name
    new: String,
    /// Refuse if a file of the image is open for writing
    #[arg(long)]
    frozen: bool,
    /// Give it an identity of its own: it comes without the origin's machine ID, SSH host keys, random seeds and
    /// DHCP leases, and with its own host name
    #[arg(long)]
    reset_identity: bool,
    /// The host name that it gets, instead of its own name
    #[arg(long, value_name = "NAME", requires = "reset_identity")]
    hostname: Option<String>,
    #[command(flatten)]
    dry: DryRun,
}

impl Clone {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Clone {
            from: self.from,
            to: self.new,
            frozen: self.frozen,
            reset: self.reset_identity.then_some(identity::Options {
                hostname: self.hostname,
            }),
        };
        session.run(request, self.dry.dry_run)
    }
}

/// Give an image or a family another name
#[derive(Debug, Args)]
pub struct Rename {
    /// The name it has
    from: String,
    /// The name it gets
    to: String,
    #[command(flatten)]
    dry: DryRun,
}

impl Rename {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let request = Request::Rename {
            from: self.from,
            to: self.to,
        };
        session.run(request, self.dry.dry_run)
    }
}

/// Remove an image; a family's base goes last, and the family with it
#[derive(Debug, Args)]
pub struct Remove {
    /// The image
    image: String,
    #[command(flatten)]
    dry: DryRun,
}

impl Remove {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let name = self.image;
        session.run(Request::Remove { name }, self.dry.dry_run)
    }
}

/// Write an image out of the store, or a family as a smaller store
///
/// The destination is there wholly or not at all. Where a guest is at work in the image, clone it
/// and export the clone.
#[derive(Debug, Args)]
pub struct Export {
    /// The image, or a family: its base
    image: String,
    /// What to make: a directory, a tar archive (`-` for standard output), or a directory that
    /// will hold the layers of a kernel overlayfs
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// What it becomes
    #[arg(long, value_enum, default_value_t = ExportFormat::Dir)]
    format: ExportFormat,
    /// With --format store: an image of the family that goes with its base; as often as you like
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// A plain directory tree
    Dir,
    /// A tar archive with xattrs and ACLs
    Tar,
    /// Layers for the kernel's overlayfs: objects, the family's shared layer, the image's own
    Overlay,
    /// A smaller store with the family, its base and the images that are named, for a medium that is carried elsewhere
    Store,
}

impl Export {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let format = match self.format {
            ExportFormat::Dir => Format::Dir,
            ExportFormat::Tar => Format::Tar,
            ExportFormat::Overlay => Format::Overlay,
            ExportFormat::Store => {
                // The daemon has another current directory.
                let destination = std::path::absolute(&self.destination);
                let destination = destination.about(self.destination.display())?;
                let request = Request::ExportStore {
                    name: self.image,
                    images: self.images,
                    destination: destination.into(),
                };
                return session.run(request, false);
            }
        };
        if !self.images.is_empty() {
            return Err(Error::usage("--image", "only a store holds several images")
                .remedy("use --format store"));
        }
        let options = Options {
            image: self.image,
            destination: self.destination,
            format,
        };
        let context = session.open(false)?;
        let progress = session.progress();
        let report = ops::export::export(&context, &options, &*progress);
        let report = report.map_err(|error| ops::damaged::named(&context, error))?;
        drop(progress);
        if options.format == Format::Tar && options.destination.as_os_str() == "-" {
            return Ok(Outcome::Done);
        }
        session.show(&Report::Export(report), false)
    }
}
