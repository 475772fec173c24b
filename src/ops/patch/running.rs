//! Who still runs what a change has replaced: processes of this host that have a file mapped which has lost
//! its name, as programs have theirs and the libraries that they load.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::ops::report::RunningProcess;
use crate::path_bytes::PathBytes;
use crate::store::number::ImageId;

/// How long the answer is waited for; a thousand processes take a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// A device as /proc shows it: major and minor number.
type Device = (u32, u32);

/// Files that have lost their names.
pub(super) struct Replaced {
    /// By the device of the mount and st_ino.
    files: HashMap<(Device, u64), (ImageId, PathBytes)>,
    /// What is mounted where, as /proc/self/mountinfo tells it.
    mounts: Vec<u8>,
}

impl Replaced {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            files: HashMap::new(),
            mounts: fs::read("/proc/self/mountinfo").unwrap_or_default(),
        }
    }

    /// Adds files of an image, by st_ino, with the paths that they had. Where it is not mounted nobody runs
    /// them.
    pub(super) fn add(
        &mut self,
        (image, mounts): (ImageId, &[PathBytes]),
        files: impl Iterator<Item = (u64, PathBytes)>,
    ) {
        let devices = mounts.iter();
        let devices = devices.filter_map(|mount| device_of(&self.mounts, mount.as_bytes()));
        let devices: Vec<Device> = devices.collect();
        if devices.is_empty() {
            return;
        }
        for (number, path) in files {
            for device in &devices {
                self.files.insert((*device, number), (image, path.clone()));
            }
        }
    }

    /// Who has one mapped, as far as that can be told in time: to read what a process has mapped may wait for
    /// that process.
    pub(super) fn processes(self) -> Vec<(ImageId, RunningProcess)> {
        if self.files.is_empty() {
            return Vec::new();
        }
        let (told, answer) = mpsc::channel();
        let search = move || {
            // Nobody waits for it any more.
            told.send(self.search()).unwrap_or_default();
        };
        let thread = thread::Builder::new().name("running".into()).spawn(search);
        let found = thread.map_err(|error| error.to_string()).and_then(|_| {
            let found = answer.recv_timeout(PATIENCE);
            found.map_err(|_| String::from("a process does not let /proc tell of it"))
        });
        found.unwrap_or_else(|error| {
            log::warn!("who goes on with old files is not known: {error}");
            Vec::new()
        })
    }

    /// Who has one mapped. A process that ends meanwhile, or that one may not look at, is left out.
    fn search(&self) -> Vec<(ImageId, RunningProcess)> {
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir("/proc") else {
            return found;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Ok(maps) = fs::read(entry.path().join("maps")) else {
                continue;
            };
            let mut mapped: Vec<_> = maps
                .split(|&byte| byte == b'\n')
                .filter_map(|line| self.files.get(&file_of(line)?))
                .collect();
            mapped.sort();
            mapped.dedup();
            let command = command_of(&entry.path());
            found.extend(mapped.into_iter().map(|(image, path)| {
                let process = RunningProcess {
                    pid,
                    command: command.clone(),
                    path: path.clone(),
                };
                (*image, process)
            }));
        }
        found
    }
}

fn command_of(process: &Path) -> PathBytes {
    let mut name = fs::read(process.join("comm")).unwrap_or_default();
    while name.last() == Some(&b'\n') {
        name.pop();
    }
    name.into()
}

/// The fields of a line.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let fields = line.split(|&byte| byte == b' ');
    fields.filter(|field| !field.is_empty())
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

fn device(text: &[u8], radix: u32) -> Option<Device> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let part = |text| u32::try_from(number(text, radix)?).ok();
    Some((part(&text[..colon])?, part(&text[colon + 1..])?))
}

/// The file of a line of /proc/PID/maps (proc_pid_maps(5)): the device is hexadecimal there.
fn file_of(line: &[u8]) -> Option<(Device, u64)> {
    let mut fields = fields(line).skip(3);
    Some((device(fields.next()?, 16)?, number(fields.next()?, 10)?))
}

/// The device of what is mounted last on a directory, of /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn device_of(table: &[u8], directory: &[u8]) -> Option<Device> {
    let lines = table.split(|&byte| byte == b'\n');
    let mut on_it = lines.filter_map(|line| {
        let mut fields = fields(line).skip(2);
        let device = device(fields.next()?, 10)?;
        (unescaped(fields.nth(1)?) == directory).then_some(device)
    });
    on_it.next_back()
}

/// Blanks, newlines and backslashes are octal there.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| number(digits, 8));
        match octal.and_then(|value| u8::try_from(value).ok()) {
            Some(value) if first == b'\\' => {
                out.push(value);
                rest = &after[3..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let line = b"55d0c0a00000-55d0c0a02000 r--p 00000000 00:3c 4711    /srv/m/web/usr/bin/a b (deleted)";
        assert_eq!(file_of(line), Some(((0, 0x3c), 4711)));
        assert_eq!(
            file_of(b"7ffe-7fff rw-p 00000000 00:00 0    [stack]"),
            Some(((0, 0), 0))
        );
        assert_eq!(file_of(b""), None);
        let table = b"29 1 0:60 / /srv/m rw - tmpfs none rw\n\
                      30 29 0:61 / /srv/m/a\\040b rw,nosuid - fuse.foldfs store#web rw\n\
                      31 29 0:62 / /srv/m rw - fuse.foldfs store#db rw\n";
        assert_eq!(device_of(table, b"/srv/m/a b"), Some((0, 61)));
        assert_eq!(device_of(table, b"/srv/m"), Some((0, 62)));
        assert_eq!(device_of(table, b"/srv"), None);
        assert_eq!(unescaped(b"a\\134b\\"), b"a\\b\\");
    }
}
