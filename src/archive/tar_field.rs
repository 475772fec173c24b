//! The parts of tar headers as text and numbers: octal and base-256 fields, pax records, times, sparse
//! maps, ACLs. Pure; sources are tar(5) of libarchive and the manual of GNU tar, Appendix D.

use crate::store::metadata::Time;

/// A number in a header: octal digits, or base-256 with a sign (GNU). `None` for garbage.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The bit below the mark is the sign.
        let start = match first & 0x40 {
            0 => i128::from(first & 0x7f),
            _ => i128::from(first as i8),
        };
        let value = field[1..].iter().try_fold(start, |value, &byte| {
            let value = value * 256 + i128::from(byte);
            i64::try_from(value).ok().map(i128::from)
        })?;
        return i64::try_from(value).ok();
    }
    let text = field.split(|&byte| byte == 0).next()?.trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    text.iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add((digit - b'0').into()),
        _ => None,
    })
}

/// A decimal number.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, as pax has times: `-1.5` is a second and a half before 1970.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digit = |index: usize| {
            fraction
                .get(index)
                .map_or(0, |digit| u32::from(digit - b'0'))
        };
        nanoseconds = (0..9).fold(0, |value, index| value * 10 + digit(index));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// A pax record: key and value, which may hold any byte.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// The records of a pax header: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = rest;
    }
    Some(records)
}

/// The name of an xattr as GNU tar writes it: `%3D` for `=`, `%25` for `%`.
pub(super) fn xattr_name(encoded: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = match rest {
            [b'%', b'3', b'D', ..] => Some(b'='),
            [b'%', b'2', b'5', ..] => Some(b'%'),
            _ => None,
        };
        name.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &rest[3..] } else { after };
    }
    name
}

/// Where a sparse file has data: offset and length.
pub(super) type Segments = Vec<(u64, u64)>;

/// Checks a sparse map: in order, without overlaps, within the file's size, and holding as much as
/// the archive has. Empty segments are left out.
pub(super) fn check_segments(segments: Segments, size: u64, stored: u64) -> Option<Segments> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for &(offset, length) in &segments {
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        sum = sum.checked_add(length)?;
    }
    if end > size || sum != stored {
        return None;
    }
    Some(
        segments
            .into_iter()
            .filter(|&(_, length)| length > 0)
            .collect(),
    )
}

/// Pairs of numbers.
pub(super) fn pairs(numbers: &[u64]) -> Option<Segments> {
    let (pairs, []) = numbers.as_chunks::<2>() else {
        return None;
    };
    Some(
        pairs
            .iter()
            .map(|&[offset, length]| (offset, length))
            .collect(),
    )
}

/// The kernel's form of a POSIX ACL (linux/posix_acl_xattr.h) from its text (acl(5)), in which
/// users and groups stand as numbers: as `user:1000:rw-`, or as star writes it, `user:name:rw-:1000`.
/// `None` where one stands as a name only.
pub(super) fn acl(text: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    let mut entries: Vec<(u16, u16, u32)> = Vec::new();
    let lines = text.split(|&byte| byte == b',' || byte == b'\n');
    for line in lines {
        let line = line.split(|&byte| byte == b'#').next()?.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let mut fields = line.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
        let (tag, who, rights) = (fields.next()?, fields.next()?, fields.next()?);
        // other and mask may have one colon only.
        let (who, rights) = match (tag, rights) {
            _ if !who.is_empty() && rights.is_empty() => (&b""[..], who),
            _ => (who, rights),
        };
        let mut bits = 0;
        for right in rights {
            bits |= match right {
                b'r' => 4,
                b'w' => 2,
                b'x' => 1,
                b'-' => 0,
                _ => return None,
            };
        }
        let (unnamed, named) = match tag {
            b"user" | b"u" => (0x01, 0x02),
            b"group" | b"g" => (0x04, 0x08),
            b"mask" | b"m" => (0x10, 0x10),
            b"other" | b"o" => (0x20, 0x20),
            _ => return None,
        };
        let entry = if who.is_empty() {
            (unnamed, bits, NOBODY)
        } else {
            let id = fields.next().and_then(decimal).or_else(|| decimal(who));
            let id = match (id, who) {
                (None, b"root") => 0,
                (id, _) => id?,
            };
            (named, bits, u32::try_from(id).ok()?)
        };
        entries.push(entry);
    }
    // The kernel wants them in this order.
    entries.sort_by_key(|&(tag, _, id)| (tag, id));
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&bits.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_octal_and_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0009\0"), None);
        assert_eq!(number(b"-1\0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x01\0\0\0\0"), Some(1 << 32));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(
            number(b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
        assert_eq!(number(b"777777777777"), Some((1 << 36) - 1));
        assert_eq!(number(b""), None);
    }

    #[test]
    fn times_before_and_after_1970() {
        let time = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-3"), Some((-3, 0)));
        for bad in ["", "x", "1.x", "--1", "1.5.5", "99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_hold_any_byte() {
        let (key, value) = (b"SCHILY.xattr.user.x".to_vec(), b"a\nb=c\0".to_vec());
        let bytes = b"30 SCHILY.xattr.user.x=a\nb=c\0\n";
        assert_eq!(records(bytes), Some(vec![(key, value)]));
        for bad in [
            &b"9 a=b\n"[..],
            b"5 a=b\n",
            b"6 a=bx",
            b"x",
            b"6  ab\n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert_eq!(records(bad), None, "{}", bad.escape_ascii());
        }
        assert_eq!(xattr_name(b"user.a%3Db%25c%20"), b"user.a=b%c%20");
    }

    #[test]
    fn sparse_maps_are_checked() {
        assert_eq!(
            check_segments(vec![(0, 5), (10, 5), (20, 0)], 20, 10),
            Some(vec![(0, 5), (10, 5)])
        );
        assert_eq!(check_segments(vec![(10, 5), (0, 5)], 20, 10), None);
        assert_eq!(check_segments(vec![(0, 6), (5, 5)], 20, 11), None);
        assert_eq!(check_segments(vec![(0, 5)], 4, 5), None);
        assert_eq!(check_segments(vec![(0, 5)], 10, 6), None);
        assert_eq!(check_segments(vec![(u64::MAX, 2)], u64::MAX, 2), None);
        assert_eq!(pairs(&[1, 2, 3]), None);
    }

    #[test]
    fn acls() {
        let binary = acl(b"user::rwx,user:lp:r-x:7,group::r-x,mask::r-x,other::--x").unwrap();
        let expected = [
            &b"\x02\0\0\0"[..],
            b"\x01\0\x07\0\xff\xff\xff\xff",
            b"\x02\0\x05\0\x07\0\0\0",
            b"\x04\0\x05\0\xff\xff\xff\xff",
            b"\x10\0\x05\0\xff\xff\xff\xff",
            b"\x20\0\x01\0\xff\xff\xff\xff",
        ]
        .concat();
        assert_eq!(binary, expected);
        let gnu = b"user::rwx\nuser:7:r-x\t#effective:r-x\ngroup::r-x\nmask::r-x\nother::--x\n";
        assert_eq!(acl(gnu).unwrap(), expected);
        assert_eq!(
            acl(b"user::rwx,user:lp:r-x,group::r-x,mask::r-x,other::--x"),
            None
        );
    }
}
