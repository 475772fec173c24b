//! `foldfs.toml`: what makes a directory a store. Written once, as the last step of `init`.

use crate::error::{Error, Result};

/// The format of docs/format.md.
pub const FORMAT_VERSION: i64 = 1;

/// What to do about a damaged one.
pub const RESTORE: &str = "restore it: it holds `format = 1` and `id = \"32 hexadecimal digits\"`";

/// The content of `foldfs.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatFile {
    /// 32 hexadecimal digits.
    pub id: String,
}

impl FormatFile {
    /// The file's text.
    pub fn to_toml(&self) -> String {
        format!("format = {FORMAT_VERSION}\nid = \"{}\"\n", self.id)
    }

    /// The inverse of [`FormatFile::to_toml`]. `object` names the file in errors.
    ///
    /// # Errors
    /// When it is damaged, or of a format that this foldfs does not know.
    pub fn parse(bytes: &[u8], object: &str) -> Result<Self> {
        let damaged =
            |cause: &str| Error::failed(object, format!("it is damaged: {cause}")).remedy(RESTORE);
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| damaged(error.message()))?;
        let format = table
            .get("format")
            .and_then(toml::Value::as_integer)
            .filter(|&format| format >= 1)
            .ok_or_else(|| damaged("it holds no format"))?;
        if format > FORMAT_VERSION {
            return Err(Error::failed(
                object,
                format!("the store has format {format}, this foldfs knows {FORMAT_VERSION}"),
            )
            .remedy("use a newer foldfs"));
        }
        let id = table
            .get("id")
            .and_then(toml::Value::as_str)
            .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| damaged("it holds no id"))?;
        Ok(Self { id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &[u8]) -> String {
        FormatFile::parse(text, "foldfs.toml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn parsing_inverts_forming() {
        let file = FormatFile {
            id: "0123456789abcdef".repeat(2),
        };
        assert_eq!(FormatFile::parse(file.to_toml().as_bytes(), ""), Ok(file));
    }

    #[test]
    fn damaged_and_newer_ones_are_told_apart() {
        let newer = refused(b"format = 2\nsomething = 'else'");
        assert!(
            newer.contains("format 2") && newer.contains("newer foldfs"),
            "{newer}"
        );
        for text in [
            &b""[..],
            b"\xff",
            b"format",
            b"format = 0",
            b"format = -1",
            b"format = '1'",
            b"format = 1",
            b"format = 1\nid = 5",
            b"format = 1\nid = 'short'",
            b"\0\0\0\0",
        ] {
            assert!(refused(text).contains("damaged"), "{text:?}");
        }
    }
}
