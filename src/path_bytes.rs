//! A path or name as the kernel has it: bytes, usually UTF-8.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A path or name. In JSON it is a string, or an array of byte values where it is not UTF-8: so
/// nothing is lost and nothing looks like something else. Displayed, control characters and bytes
/// that are not UTF-8 are escaped, so that a name cannot write to a terminal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Repr", into = "Repr")]
pub struct PathBytes(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Repr {
    Text(String),
    Bytes(Vec<u8>),
}

impl PathBytes {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path of the host.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<Vec<u8>> for PathBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for PathBytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&Path> for PathBytes {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for PathBytes {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<Repr> for PathBytes {
    fn from(repr: Repr) -> Self {
        match repr {
            Repr::Text(text) => Self(text.into_bytes()),
            Repr::Bytes(bytes) => Self(bytes),
        }
    }
}

impl From<PathBytes> for Repr {
    fn from(path: PathBytes) -> Self {
        match String::from_utf8(path.0) {
            Ok(text) => Repr::Text(text),
            Err(error) => Repr::Bytes(error.into_bytes()),
        }
    }
}

impl fmt::Display for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some((at, c)) = rest.char_indices().find(|(_, c)| c.is_control()) {
                write!(f, "{}{}", &rest[..at], c.escape_default())?;
                rest = &rest[at + c.len_utf8()..];
            }
            f.write_str(rest)?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn json_keeps_every_byte(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let path = PathBytes::from(bytes);
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<PathBytes>(&json).unwrap(), path);
        }
    }

    #[test]
    fn text_stays_text() {
        let path = PathBytes::from(&b"usr/lib/dev-\\x2d.device"[..]);
        assert_eq!(
            serde_json::to_string(&path).unwrap(),
            r#""usr/lib/dev-\\x2d.device""#
        );
        let odd = PathBytes::from(&b"a\xff"[..]);
        assert_eq!(serde_json::to_string(&odd).unwrap(), "[97,255]");
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        let path = PathBytes::from(&b"\x1b[2Jx\n\xff\xc3\xa4"[..]);
        assert_eq!(path.to_string(), "\\u{1b}[2Jx\\n\\xffä");
    }
}
