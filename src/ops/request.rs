//! What a command asks of a store: the seam between the command line and the operations. A
//! request is performed in the process that holds the store's lock: the daemon, if one runs
//! (it comes over the control socket then), else the command's own.

use serde::{Deserialize, Serialize};

use super::identity;
use super::patch::{OnConflict, Source};
use crate::error::{Error, Result};
use crate::path_bytes::PathBytes;
use crate::store::catalog::Share;

/// A request with the flag that every request has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What to do.
    pub request: Request,
    /// Only report what would be done. Reports of a dry run say what the plan is, in the same
    /// form as those of the real one.
    #[serde(default)]
    pub dry_run: bool,
}

/// One piece of work on a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make an image of what an import has hashed and staged in its own process.
    CommitImport {
        /// The import's directory: one name below `staging/`.
        staged: PathBytes,
        /// The new image's name.
        name: String,
        /// The family to join or to found; `None`: join the most similar one, else found one.
        family: Option<String>,
        /// The rule of placement, if a family is founded.
        share: Share,
        /// Where the tree comes from, for people.
        source: String,
    },
    /// Make an image or a family's base once more.
    Clone {
        /// An image or a family.
        from: String,
        /// The new image's name.
        to: String,
        /// Refuse if a file of the image is open for writing.
        frozen: bool,
        /// Whether the new image gets an identity of its own, and how.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reset: Option<identity::Options>,
    },
    /// Write a family with its base and chosen images as a store of its own. Alters nothing here, but nobody else
    /// may do so meanwhile.
    ExportStore {
        /// The family, or one of its images.
        name: String,
        /// Images of it besides.
        images: Vec<String>,
        /// A new or an empty directory; absolute.
        destination: PathBytes,
    },
    /// Give an image or a family another name.
    Rename {
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
    },
    /// Remove an image; a family's base only as its last image, and the family with it.
    Remove {
        /// An image or a family.
        name: String,
    },
    /// Find identical files and keep them once.
    Fold {
        /// One family; `None`: all.
        family: Option<String>,
    },
    /// Keep paths of an image from being folded, and give it its own copy of what is shared there.
    Hold {
        /// An image.
        image: String,
        /// Paths in its view, from the view's root; none: report what is held.
        paths: Vec<PathBytes>,
    },
    /// Let held paths be folded again.
    Release {
        /// An image.
        image: String,
        /// Held paths.
        paths: Vec<PathBytes>,
    },
    /// Keep images of a family from altering paths.
    Lock {
        /// A family.
        family: String,
        /// Patterns as of gitignore(5), later ones count more; none: report what is locked.
        patterns: Vec<String>,
        /// Lock although images differ from the base there.
        adopt: bool,
    },
    /// Let them alter paths again.
    Unlock {
        /// A family.
        family: String,
        /// Patterns that are in force.
        patterns: Vec<String>,
        /// As with `Lock`, where a pattern goes that has left something out.
        adopt: bool,
    },
    /// Make the working tree of a family, if there is none.
    Work {
        /// The family.
        family: String,
        /// There must be none.
        anew: bool,
    },
    /// Remove the working tree of a family, with all that was done in it.
    Discard {
        /// The family.
        family: String,
    },
    /// Make a change of a family.
    Apply {
        /// What it is made of.
        source: Source,
        /// The family; `None`: that of the source, or of the images.
        family: Option<String>,
        /// The images in which it is made; none: all of the family, and its base.
        images: Vec<String>,
        /// What becomes of it where an image has a version of its own.
        on_conflict: OnConflict,
        /// Who asks for it.
        who: String,
        /// What for.
        why: String,
    },
    /// The history of a family.
    Changes {
        /// The family.
        family: String,
        /// The newest ones, so many; `None`: all.
        last: Option<u64>,
        /// Only this one, with all that it is about.
        change: Option<i64>,
        /// Of that, only how many paths there are.
        stat: bool,
    },
    /// What passes and folds did.
    Log {
        /// The newest ones, so many; `None`: all.
        last: Option<u64>,
    },
    /// What the daemon did since it began, as OpenMetrics text.
    Metrics,
    /// Remove objects that nothing refers to.
    Collect {
        /// How many changes of each family, the newest ones, can be taken back afterwards.
        keep_changes: u64,
    },
    /// Prove that the store is sound.
    Check {
        /// Read every object and compare its digest.
        content: bool,
    },
    /// How many bytes images show and what they cost.
    Status {
        /// An image or a family; `None`: all.
        name: Option<String>,
    },
    /// The families and images, and where they are mounted.
    List,
    /// Which layer serves a path, why it is private, who shares it.
    Why {
        /// An image.
        image: String,
        /// A path in its view, from the view's root.
        path: PathBytes,
    },
    /// Mount one image on a directory, or all of them on directories below it.
    Mount {
        /// `None`: all, as `directory/IMAGE`.
        image: Option<String>,
        /// An absolute path of the host.
        directory: PathBytes,
        /// How.
        options: MountOptions,
        /// It is a family's working tree, and what is done there is committed at once.
        #[serde(default)]
        live: bool,
    },
    /// Have another program take the daemon's place, with all mounts, in the same process.
    ReplaceDaemon {
        /// An absolute path of the host.
        program: PathBytes,
    },
    /// Unmount what is mounted on a directory, or on directories directly below it by a mount of
    /// all images.
    Unmount {
        /// An absolute path of the host.
        directory: PathBytes,
    },
}

impl Request {
    /// Whether it may alter the store; if not, a command may perform it beside another writer.
    pub fn alters(&self) -> bool {
        match self {
            Request::CommitImport { .. }
            | Request::Clone { .. }
            | Request::ExportStore { .. }
            | Request::Rename { .. }
            | Request::Remove { .. }
            | Request::Fold { .. }
            | Request::Release { .. }
            | Request::Apply { .. }
            | Request::Work { .. }
            | Request::Discard { .. }
            | Request::Collect { .. }
            | Request::Unlock { .. }
            | Request::Mount { .. }
            | Request::ReplaceDaemon { .. }
            | Request::Unmount { .. } => true,
            Request::Hold { paths, .. } => !paths.is_empty(),
            Request::Lock { patterns, .. } => !patterns.is_empty(),
            Request::Check { .. }
            | Request::Log { .. }
            | Request::Changes { .. }
            | Request::Metrics
            | Request::Status { .. }
            | Request::List
            | Request::Why { .. } => false,
        }
    }
}

/// How an image is mounted. The default is what is safe: nosuid, nodev, visible to root only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountOptions {
    /// `ro`: nothing can be written.
    pub read_only: bool,
    /// `suid`: set-user-id and set-group-id bits and file capabilities work on the host.
    pub suid: bool,
    /// `dev`: device nodes work on the host.
    pub dev: bool,
    /// `allow_other`: users other than root may enter, as far as modes and ACLs let them.
    pub allow_other: bool,
}

impl MountOptions {
    /// The names that [`MountOptions::parse`] knows.
    pub const NAMES: &'static str = "ro, rw, suid, nosuid, dev, nodev, allow_other";

    /// Reads comma-separated names, as mount(8) takes them after `-o`; the later one wins.
    ///
    /// # Errors
    /// A usage error that names the unknown option and lists the known ones.
    pub fn parse(text: &str) -> Result<Self> {
        let mut options = Self::default();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            match name {
                "ro" => options.read_only = true,
                "rw" => options.read_only = false,
                "suid" => options.suid = true,
                "nosuid" => options.suid = false,
                "dev" => options.dev = true,
                "nodev" => options.dev = false,
                "allow_other" => options.allow_other = true,
                _ => {
                    return Err(
                        Error::usage(format!("mount option {name:?}"), "it is not known")
                            .remedy(format!("use any of: {}", Self::NAMES)),
                    );
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_readable_and_strict() {
        let call = Call {
            request: Request::Clone {
                from: "web".into(),
                to: "web2".into(),
                frozen: false,
                reset: None,
            },
            dry_run: true,
        };
        let json = serde_json::to_string(&call).unwrap();
        assert_eq!(
            json,
            r#"{"request":{"command":"clone","from":"web","to":"web2","frozen":false},"dry_run":true}"#
        );
        assert_eq!(serde_json::from_str::<Call>(&json).unwrap(), call);
        for bad in [
            r#"{"request":{"command":"explode"}}"#,
            r#"{"request":{"command":"clone","from":"web"}}"#,
            r#"{"request":{"command":"rename","from":"a","to":"b","force":true}}"#,
        ] {
            serde_json::from_str::<Call>(bad).unwrap_err();
        }
    }

    #[test]
    fn mount_options() {
        let options = MountOptions::parse("ro,suid,dev,allow_other,nodev").unwrap();
        assert!(options.read_only && options.suid && !options.dev && options.allow_other);
        assert_eq!(MountOptions::parse("").unwrap(), MountOptions::default());
        let error = MountOptions::parse("ro,exec").unwrap_err();
        assert!(error.to_string().contains("\"exec\""), "{error}");
        assert_eq!(error.kind.exit_code(), 2);
    }
}
