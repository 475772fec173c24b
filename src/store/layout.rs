//! The names of everything in a store: the one module that forms and parses them.
//!
//! ```text
//! STORE/
//!   foldfs.toml  catalog.db  catalog.bak  catalog.bak.1  cache.db
//!   objects/ab/cdef...          OBJECTS / object_name(digest)
//!   images/ID/                  IMAGES / image_name(id)
//!     private/  index/  redirects/  orphans/  work/
//!     index/NUMBER  index/NUMBER.names        number_name, token_name
//!     redirects/NUMBER  orphans/NUMBER        number_name
//!     work/DIGEST                             work_name
//!   staging/
//!   run/lock  run/control.sock  run/daemon.log  run/folds.log  run/folds.log.1
//!   changes/ID  changes/ID-IMAGE
//!   quarantine/NUMBER  quarantine/list
//! ```

use super::digest::Digest;
use super::number::{ImageId, Number};

/// Format version and store id.
pub const FORMAT: &str = "foldfs.toml";
/// The catalog.
pub const CATALOG: &str = "catalog.db";
/// Its newest copy.
pub const BACKUP: &str = "catalog.bak";
/// The copy before that.
pub const OLDER_BACKUP: &str = "catalog.bak.1";
/// A copy under way.
pub const NEW_BACKUP: &str = "catalog.bak.new";
/// The hash cache.
pub const CACHE: &str = "cache.db";
/// Objects.
pub const OBJECTS: &str = "objects";
/// Images.
pub const IMAGES: &str = "images";
/// What is under way.
pub const STAGING: &str = "staging";
/// How the directory in [`STAGING`] begins that holds objects being collected, by
/// [`work_name`].
pub const WITHDRAWN: &str = "withdrawn";
/// The changes of families.
pub const CHANGES: &str = "changes";
/// What a repair moved out of the way.
pub const QUARANTINE: &str = "quarantine";
/// What lies there, and why, in [`QUARANTINE`].
pub const QUARANTINE_LIST: &str = "list";
/// Lock and control socket.
pub const RUN: &str = "run";
/// The lock, in [`RUN`].
pub const LOCK: &str = "lock";
/// The daemon's socket, in [`RUN`].
pub const CONTROL_SOCKET: &str = "control.sock";
/// What a daemon in the background has to say, in [`RUN`].
pub const DAEMON_LOG: &str = "daemon.log";
/// What folds did, in [`RUN`].
pub const FOLD_LOG: &str = "folds.log";
/// What they did before that.
pub const OLDER_FOLD_LOG: &str = "folds.log.1";
/// `foldfs.toml` before `init` is done.
pub const NEW_FORMAT: &str = "foldfs.toml.new";

/// An image's private layer, in `images/ID`.
pub const PRIVATE: &str = "private";
/// Files with several names.
pub const INDEX: &str = "index";
/// Markers of shared directories that stand elsewhere.
pub const REDIRECTS: &str = "redirects";
/// Unlinked, but still referred to.
pub const ORPHANS: &str = "orphans";
/// Entries being built.
pub const WORK: &str = "work";
/// All of an image's directories.
pub const IMAGE_PARTS: [&str; 5] = [PRIVATE, INDEX, REDIRECTS, ORPHANS, WORK];

/// Everything that `init` makes in the store's directory before [`FORMAT`].
pub const INIT_PARTS: [&str; 8] = [
    OBJECTS,
    IMAGES,
    STAGING,
    RUN,
    CATALOG,
    "catalog.db-wal",
    "catalog.db-shm",
    NEW_FORMAT,
];

const TOKEN_SUFFIX: &str = ".names";

/// An object's name below `objects/`: `ab/cdef...`.
pub fn object_name(digest: &Digest) -> String {
    let mut name = digest.to_string();
    name.insert(2, '/');
    name
}

/// The directory of an object below `objects/`: `ab`.
pub fn object_directory(digest: &Digest) -> String {
    objects_beginning(digest.as_bytes()[0])
}

/// The directory of all objects whose digests begin with a byte.
pub fn objects_beginning(first: u8) -> String {
    format!("{first:02x}")
}

/// The inverse of [`object_name`], from the two components; `None` for other names.
pub fn parse_object(directory: &[u8], name: &[u8]) -> Option<Digest> {
    if directory.len() != 2 {
        return None;
    }
    let text = [directory, name].concat();
    std::str::from_utf8(&text).ok()?.parse().ok()
}

/// `images/ID`, below `images/`.
pub fn image_name(id: ImageId) -> String {
    id.to_string()
}

/// The inverse of [`image_name`]; `None` for other names.
pub fn parse_image(name: &[u8]) -> Option<ImageId> {
    let id: i64 = std::str::from_utf8(name).ok()?.parse().ok()?;
    (id > 0 && image_name(ImageId(id)).as_bytes() == name).then_some(ImageId(id))
}

/// A file in `index/`, `redirects/` or `orphans/`.
pub fn number_name(number: Number) -> String {
    number.to_string()
}

/// The inverse of [`number_name`]; `None` for other names, tokens among them.
pub fn parse_number(name: &[u8]) -> Option<Number> {
    let number = Number::new(std::str::from_utf8(name).ok()?.parse().ok()?)?;
    (number_name(number).as_bytes() == name).then_some(number)
}

/// The token in `index/` that all private names of a file are links of.
pub fn token_name(number: Number) -> String {
    format!("{number}{TOKEN_SUFFIX}")
}

/// The inverse of [`token_name`]; `None` for other names.
pub fn parse_token(name: &[u8]) -> Option<Number> {
    parse_number(name.strip_suffix(TOKEN_SUFFIX.as_bytes())?)
}

/// A private file on its way to become an object, in `work/`.
pub fn work_name(digest: &Digest) -> String {
    digest.to_string()
}

/// The inverse of [`work_name`]; `None` for other names.
pub fn parse_work(name: &[u8]) -> Option<Digest> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_inverts_forming() {
        let digest = Digest::of(b"x");
        let name = object_name(&digest);
        let (directory, rest) = name.split_once('/').unwrap();
        assert_eq!(directory, object_directory(&digest));
        assert_eq!((directory.len(), rest.len()), (2, 62));
        assert_eq!(
            parse_object(directory.as_bytes(), rest.as_bytes()),
            Some(digest)
        );
        assert_eq!(parse_work(work_name(&digest).as_bytes()), Some(digest));
        let number = Number::new(77).unwrap();
        assert_eq!(parse_number(number_name(number).as_bytes()), Some(number));
        assert_eq!(parse_token(token_name(number).as_bytes()), Some(number));
        assert_eq!(parse_image(b"7"), Some(ImageId(7)));
    }

    #[test]
    fn other_names_are_not_parsed() {
        for name in [
            &b""[..],
            b"0",
            b"007",
            b"+7",
            b"-7",
            b"7.names",
            b"x",
            b"\xff",
            b"72057594037927936",
        ] {
            assert_eq!(parse_number(name), None, "{name:?}");
        }
        for name in [
            &b""[..],
            b"0",
            b"07",
            b"+7",
            b"-7",
            b"7 ",
            b"9223372036854775808",
        ] {
            assert_eq!(parse_image(name), None, "{name:?}");
        }
        assert_eq!(parse_token(b".names"), None);
        assert_eq!(parse_token(b"7"), None);
        let digest = Digest::of(b"x").to_string();
        let (a, b) = digest.as_bytes().split_at(2);
        assert_eq!(parse_object(b"a", &digest.as_bytes()[1..]), None);
        assert_eq!(parse_object(a, &b[1..]), None);
        assert_eq!(
            parse_object(&a.to_ascii_uppercase(), &b.to_ascii_uppercase()),
            None
        );
    }
}
