//! Sparse files in an archive, in the four forms that GNU tar has written (its manual, D.4).

use std::collections::HashMap;
use std::io::Read;

use tar::Header;

use super::tar_field::{Record, Segments, check_segments, decimal, number, pairs};
use super::tar_member::{BLOCK, Members};
use crate::error::Result;

/// Segments of a sparse file: more is refused.
const SEGMENTS_MAX: usize = 1 << 20;

impl<R: Read> Members<R> {
    /// The file's size and where it has data, and takes the map off the data; `None` if the member
    /// is not sparse.
    pub(super) fn sparse(
        &mut self,
        header: &Header,
        pax: &HashMap<&[u8], &[u8]>,
        records: &[Record],
        stored: u64,
    ) -> Result<Option<(u64, Segments)>> {
        let bad = |this: &Self| this.error("its map of a sparse file is bad");
        let get = |key: &str| pax.get(key.as_bytes()).copied();
        if header.as_old().linkflag[0] == b'S' {
            let (size, segments) = self.old_sparse(header)?;
            self.set_data(stored)?;
            let segments = check_segments(segments, size, stored);
            return Ok(Some((size, segments.ok_or_else(|| bad(self))?)));
        }
        let size = get("GNU.sparse.realsize").or_else(|| get("GNU.sparse.size"));
        let Some(size) = size else {
            return Ok(None);
        };
        let size = decimal(size).filter(|&size| size <= i64::MAX as u64);
        let size = size.ok_or_else(|| bad(self))?;
        self.set_data(stored)?;
        let segments = if get("GNU.sparse.major") == Some(b"1") {
            self.map_in_data()?
        } else if let Some(map) = get("GNU.sparse.map") {
            let numbers: Option<Vec<u64>> = map.split(|&byte| byte == b',').map(decimal).collect();
            numbers.and_then(|numbers| pairs(&numbers))
        } else {
            let numbers: Option<Vec<u64>> = records
                .iter()
                .filter(|(key, _)| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes")
                .map(|(_, value)| decimal(value))
                .collect();
            numbers.and_then(|numbers| pairs(&numbers))
        };
        let segments = segments.filter(|segments| segments.len() <= SEGMENTS_MAX);
        let segments = segments.and_then(|segments| check_segments(segments, size, self.data));
        Ok(Some((size, segments.ok_or_else(|| bad(self))?)))
    }

    /// The old GNU form: in the header and in blocks behind it.
    fn old_sparse(&mut self, header: &Header) -> Result<(u64, Segments)> {
        let bad = |this: &Self| this.error("its map of a sparse file is bad");
        let gnu = header.as_gnu().ok_or_else(|| bad(self))?;
        let unsigned = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        let size = unsigned(&gnu.realsize).ok_or_else(|| bad(self))?;
        let mut segments = Segments::new();
        let mut add = |slots: &[tar::GnuSparseHeader]| -> Option<()> {
            for slot in slots.iter().filter(|slot| slot.numbytes[0] != 0) {
                segments.push((unsigned(&slot.offset)?, unsigned(&slot.numbytes)?));
            }
            (segments.len() <= SEGMENTS_MAX).then_some(())
        };
        let mut sound = add(&gnu.sparse);
        let mut more = gnu.is_extended();
        while more && sound.is_some() {
            let mut block = tar::GnuExtSparseHeader::new();
            self.read_exact(block.as_mut_bytes())?;
            sound = add(block.sparse());
            more = block.is_extended();
        }
        sound.ok_or_else(|| bad(self))?;
        Ok((size, segments))
    }

    /// Version 1.0: decimal lines before the data, padded to a whole block. `None` for garbage.
    fn map_in_data(&mut self) -> Result<Option<Segments>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK as usize];
            let mut length = 0;
            while length < block.len() {
                match self.read(&mut block[length..])? {
                    0 => return Ok(None),
                    more => length += more,
                }
            }
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Ok(None);
                    }
                    continue;
                }
                let Some(value) = decimal(&line) else {
                    return Ok(None);
                };
                line.clear();
                numbers.push(value);
                if numbers.len() == 1 {
                    let Some(count) = usize::try_from(value).ok().filter(|&n| n <= SEGMENTS_MAX)
                    else {
                        return Ok(None);
                    };
                    wanted = 1 + 2 * count;
                }
            }
        }
        Ok(pairs(&numbers[1..]))
    }
}
