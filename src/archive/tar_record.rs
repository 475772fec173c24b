//! The records of a pax header as an export writes them; [`super::tar_field`] reads them.

use crate::store::metadata::{Time, Xattrs};

/// The records of one member.
#[derive(Debug, Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
    keys: Vec<String>,
}

impl Records {
    /// Adds a record; the value may hold any byte.
    pub(super) fn add(&mut self, key: &str, value: &[u8]) {
        self.keys.push(key.to_owned());
        self.add_bytes(key.as_bytes(), value);
    }

    /// Adds a record, but not beside one with the key `present`.
    pub(super) fn add_unless_present(&mut self, present: &str, key: &str, value: &[u8]) {
        if !self.keys.iter().any(|added| added == present) {
            self.add(key, value);
        }
    }

    fn add_bytes(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.bytes
            .extend_from_slice(format!("{length} ").as_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    /// Seconds with their fraction; before 1970 with a minus sign before both.
    pub(super) fn add_mtime(&mut self, time: Time) {
        let text = match (time.seconds, time.nanoseconds) {
            (seconds, 0) => format!("{seconds}"),
            (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
            (seconds, nanoseconds) => {
                let (seconds, rest) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
                format!("-{seconds}.{rest:09}")
            }
        };
        self.add("mtime", text.as_bytes());
    }

    /// ACLs as text, all others as `SCHILY.xattr.NAME`.
    pub(super) fn add_xattrs(&mut self, xattrs: &Xattrs) {
        for (name, value) in xattrs {
            let acl = match &**name {
                b"system.posix_acl_access" => Some("SCHILY.acl.access"),
                b"system.posix_acl_default" => Some("SCHILY.acl.default"),
                _ => None,
            };
            if let Some((key, text)) = acl.zip(acl_text(value)) {
                self.add(key, text.as_bytes());
                continue;
            }
            let mut key = b"SCHILY.xattr.".to_vec();
            for &byte in name {
                match byte {
                    b'=' => key.extend_from_slice(b"%3D"),
                    b'%' => key.extend_from_slice(b"%25"),
                    _ => key.push(byte),
                }
            }
            self.add_bytes(&key, value);
        }
    }

    /// The whole header's data.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The kernel's form of an ACL as star writes it: `user:1000:rw-:1000`. `None` for anything else.
fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_at_checked(4)?;
    let (entries, []) = entries.as_chunks::<8>() else {
        return None;
    };
    if version != 2_u32.to_le_bytes() {
        return None;
    }
    let mut text = Vec::new();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let right = |bit: u16, letter: char| if bits & bit != 0 { letter } else { '-' };
        let rights = format!("{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x'));
        text.push(match tag {
            0x01 => format!("user::{rights}"),
            0x02 => format!("user:{id}:{rights}:{id}"),
            0x04 => format!("group::{rights}"),
            0x08 => format!("group:{id}:{rights}:{id}"),
            0x10 => format!("mask::{rights}"),
            0x20 => format!("other::{rights}"),
            _ => return None,
        });
    }
    Some(text.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::tar_field::{acl, records, time};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in proptest::collection::vec(1_u8.., 1..40),
            value in proptest::collection::vec(any::<u8>(), 0..2000),
            seconds in -1_000_000_000_000..1_000_000_000_000_i64,
            nanoseconds in 0..1_000_000_000_u32,
        ) {
            let mtime = Time { seconds, nanoseconds };
            let mut written = Records::default();
            written.add_mtime(mtime);
            written.add_xattrs(&[(name.clone().into(), value.clone().into())].into());
            let read = records(&written.into_bytes()).unwrap();
            prop_assert_eq!(time(&read[0].1), Some(mtime));
            let key = read[1].0.strip_prefix(b"SCHILY.xattr.").unwrap();
            prop_assert_eq!(super::super::tar_field::xattr_name(key), name);
            prop_assert_eq!(&read[1].1, &value);
        }
    }

    #[test]
    fn acls_are_read_as_they_were() {
        let value = acl(b"user::rwx,user:7:r-x,user:1000:---,group::r-x,group:4294967294:-w-,mask::rwx,other::--x").unwrap();
        let text = acl_text(&value).unwrap();
        assert!(text.contains("user:1000:---:1000"), "{text}");
        assert_eq!(acl(text.as_bytes()), Some(value));
        assert_eq!(acl_text(b"\x02\0\0\0odd"), None);
    }
}
