//! The host's name, in /etc/hostname and /etc/hosts.

use crate::error::{Error, Result};

/// As sethostname(2) takes them.
const LONGEST: usize = 64;

/// And each of its parts (hostname(7)).
const LONGEST_PART: usize = 63;

/// Refuses what is no host's name, by hostname(7).
///
/// # Errors
/// A usage error that says why.
pub(super) fn check(name: &str) -> Result<()> {
    let is_part = |part: &str| {
        let mut bytes = part.bytes();
        let is_written_so = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let is_long = part.is_empty() || part.len() > LONGEST_PART;
        is_written_so && !is_long && !part.starts_with('-') && !part.ends_with('-')
    };
    let cause = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST {
        "it has more than 64 characters"
    } else if !name.split('.').all(is_part) {
        "it must be letters, digits and `-`, no part of it empty, beginning or ending with `-`"
    } else {
        return Ok(());
    };
    let refused = Error::usage(format!("host name {:?}", name), cause);
    Err(refused.remedy("give another one with --hostname (hostname(7))"))
}

/// The name in an /etc/hostname (hostname(5)).
pub(super) fn name_in(file: &[u8]) -> Option<&[u8]> {
    let lines = file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let mut names = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    names.next()
}

/// An /etc/hosts in which the host, so far called `old`, is called `new` in the lines of 127.0.1.1; `None` if
/// nothing changes. Another machine's address never moves to a name of this one.
pub(super) fn rename_in_hosts(file: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    if old == b"localhost" {
        return None;
    }
    let renamed: Vec<u8> = file
        .split_inclusive(|&byte| byte == b'\n')
        .flat_map(|line| rename_in_line(line, old, new))
        .collect();
    (renamed != file).then_some(renamed)
}

fn rename_in_line(line: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let end = line.iter().position(|&byte| byte == b'#');
    let (entry, comment) = line.split_at(end.unwrap_or(line.len()));
    let mut words = entry.split(u8::is_ascii_whitespace);
    if words.find(|word| !word.is_empty()) != Some(b"127.0.1.1") {
        return line.to_vec();
    }
    let mut renamed = Vec::with_capacity(line.len() + new.len());
    for word in entry.split_inclusive(u8::is_ascii_whitespace) {
        let name = word.trim_ascii_end();
        renamed.extend_from_slice(&renamed_name(name, old, new));
        renamed.extend_from_slice(&word[name.len()..]);
    }
    renamed.extend_from_slice(comment);
    renamed
}

/// A name of the host, with its domain or without.
fn renamed_name(name: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (old_short, new_short) = (short(old), short(new));
    if name == old {
        return new.to_vec();
    }
    if name == old_short {
        return new_short.to_vec();
    }
    match name.strip_prefix(old) {
        // The name stands without its domain, so the domain stays.
        Some(domain) if domain.starts_with(b".") && old == old_short => {
            [new_short, domain].concat()
        }
        _ => name.to_vec(),
    }
}

fn short(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|&byte| byte == b'.');
    &name[..end.unwrap_or(name.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hostname_7() {
        let (long, part) = ("a.".repeat(32) + "a", "a".repeat(64));
        for name in ["a", "web2", "WEB-2", "web.example.com", "1"] {
            check(name).unwrap();
        }
        check(&part[1..]).unwrap();
        check(&long[2..]).unwrap();
        for name in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a_b", "a b", "a\n", "ä", &part, &long,
        ] {
            let error = check(name).unwrap_err();
            assert_eq!(error.kind.exit_code(), 2, "{error}");
            assert!(error.to_string().contains("--hostname"), "{error}");
        }
    }

    #[test]
    fn the_name_is_the_first_line_that_is_no_comment() {
        for (file, expected) in [
            ("web\n", Some("web")),
            ("# of the host\n\n  web  \nother\n", Some("web")),
            ("web", Some("web")),
            ("", None),
            ("\n#web\n", None),
        ] {
            assert_eq!(name_in(file.as_bytes()), expected.map(str::as_bytes));
        }
    }

    #[track_caller]
    fn assert_renamed(names: [&str; 2], file: &str, expected: &str) {
        let [old, new] = names.map(str::as_bytes);
        let renamed = rename_in_hosts(file.as_bytes(), old, new);
        let renamed = renamed.map(|file| String::from_utf8(file).unwrap());
        let expected = (expected != file).then_some(expected.to_owned());
        assert_eq!(renamed, expected, "{names:?}: {file:?}");
    }

    #[test]
    fn only_lines_of_127_0_1_1_are_renamed() {
        let names = ["web", "web2"];
        assert_renamed(
            names,
            "127.0.0.1\tlocalhost\n127.0.1.1\tweb.example.com\tweb # web\n10.0.0.1 web\n",
            "127.0.0.1\tlocalhost\n127.0.1.1\tweb2.example.com\tweb2 # web\n10.0.0.1 web\n",
        );
        assert_renamed(names, "  127.0.1.1   web  ", "  127.0.1.1   web2  ");
        assert_renamed(names, "127.0.1.1 web\r\n", "127.0.1.1 web2\r\n");
        for file in [
            "",
            "127.0.0.1 web\n",
            "#127.0.1.1 web\n",
            "127.0.1.10 web\n",
            "127.0.1.1 webserver web-old my.web\n",
            "127.0.1.1",
            "\n\n\n",
        ] {
            assert_renamed(names, file, file);
        }
        let whole = ["web.example.com", "web2"];
        assert_renamed(
            whole,
            "127.0.1.1 web.example.com web",
            "127.0.1.1 web2 web2",
        );
        let whole = ["web.example.com", "db.example.com"];
        assert_renamed(
            whole,
            "127.0.1.1 web.example.com web",
            "127.0.1.1 db.example.com db",
        );
        let local = ["localhost", "web"];
        assert_renamed(local, "127.0.1.1 localhost\n", "127.0.1.1 localhost\n");
    }
}
