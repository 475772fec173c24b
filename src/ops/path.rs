//! Paths of an image, as somebody names them.

use crate::error::{Error, Result};

/// The longest name that there can be in an image.
const NAME_MAX: usize = 255;

/// The names of a path; symlinks are not followed, so ".." has no place in one.
///
/// # Errors
/// A usage error for a path that no image can have.
pub(super) fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
    let refused = |cause: &str| {
        Err(Error::usage(path.escape_ascii(), cause).remedy("name the path from the image's root"))
    };
    let names: Vec<_> = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if path.is_empty() {
        return refused("an empty path is none");
    }
    if names.contains(&&b".."[..]) {
        return refused("a path of an image has no \"..\"");
    }
    if path.contains(&0) || names.iter().any(|name| name.len() > NAME_MAX) {
        return refused("an image has no such names");
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for path in [
            "/etc/fstab",
            "etc/fstab",
            "//etc/./fstab/",
            "/./etc//fstab/.",
        ] {
            assert_eq!(names(path.as_bytes()).unwrap(), [b"etc", &b"fstab"[..]]);
        }
        assert!(names(b"/").unwrap().is_empty());
        assert_eq!(names(b"/\xff\n").unwrap(), [b"\xff\n"]);
        assert_eq!(names(b"/...").unwrap(), [b"..."]);
        let long = [b'n'; 256];
        names(&long[1..]).unwrap();
        for path in [&b""[..], b"/etc/../etc", b"..", b"/a\0b", &long] {
            let error = names(path).unwrap_err();
            assert_eq!(error.kind.exit_code(), 2, "{error}");
        }
    }
}
