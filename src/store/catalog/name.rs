//! What families and images may be called.

use crate::error::{Error, Result};

/// Checks a name of a family or an image: 1 to 64 bytes of `[A-Za-z0-9._-]`, not beginning with
/// `.` or `-` (names stand on command lines and become directories under a mount point).
///
/// # Errors
/// A usage error that says what is wrong.
pub fn check_name(name: &str) -> Result<()> {
    let bad = |cause: &str| {
        Err(Error::usage(format!("name {name:?}"), cause)
            .remedy("use 1 to 64 letters, digits, '.', '_' and '-'"))
    };
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > 64 {
        return bad("it is longer than 64 bytes");
    }
    if name.starts_with(['.', '-']) {
        return bad("it begins with '.' or '-'");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|&c| !allowed(c)) {
        Some(c) => bad(&format!("{c:?} is not allowed in it")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "Debian_13.2", "_", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "ä",
            "a\n",
            "a\0",
            &"x".repeat(65),
        ] {
            let error = check_name(bad).unwrap_err();
            assert_eq!(error.kind, crate::error::ErrorKind::Usage, "{bad:?}");
        }
    }
}
