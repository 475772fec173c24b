//! What a keeper keeps: descriptors by their names, for as long as they are of use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;

use super::listener::Message;
use crate::serve::service_manager::program;

/// So many descriptors it keeps at most: a daemon has a handful for each mount.
const MOST: usize = 1 << 16;

/// /dev/fuse (Documentation/admin-guide/devices.txt).
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// The descriptors.
#[derive(Debug, Default)]
pub struct Kept {
    descriptors: Vec<(String, OwnedFd)>,
    /// What the last daemon that served was.
    program: Option<OwnedFd>,
}

impl Kept {
    /// Begins with what another keeper has left.
    pub fn new(descriptors: Vec<(String, OwnedFd)>) -> Self {
        Self {
            descriptors,
            program: None,
        }
    }

    /// Does what a message says about descriptors (FDSTORE=1, FDSTOREREMOVE=1 and FDNAME= of sd_notify(3)).
    pub fn hear(&mut self, message: Message) {
        let says = |variable: &str| message.text.lines().any(|line| line == variable);
        let name = message.text.lines();
        let name = name.filter_map(|line| line.strip_prefix("FDNAME=")).next();
        let name = name.unwrap_or("stored");
        if says("FDSTOREREMOVE=1") {
            self.descriptors.retain(|(kept, _)| kept != name);
        }
        if !says("FDSTORE=1") {
            return;
        }
        for descriptor in message.descriptors {
            if name == program::NAME {
                self.program = Some(descriptor);
            } else if self.descriptors.len() < MOST {
                self.descriptors.push((name.to_owned(), descriptor));
            } else {
                log::error!(name; "too many descriptors: this one is not kept");
            }
        }
    }

    /// All, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let descriptors = self.descriptors.iter();
        descriptors.map(|(name, descriptor)| (name.as_str(), descriptor.as_fd()))
    }

    /// The program to start.
    pub fn program(&self) -> Option<BorrowedFd<'_>> {
        self.program.as_ref().map(AsFd::as_fd)
    }

    /// Whether a mount waits for a daemon.
    pub fn has_mounts(&self) -> bool {
        self.descriptors
            .iter()
            .any(|(_, descriptor)| is_connection(descriptor))
    }

    /// To see each one's end.
    pub fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let descriptors = self.descriptors.iter();
        descriptors.map(|(_, descriptor)| PollFd::new(descriptor, PollFlags::empty()))
    }

    /// Lets go of those that have ended: mounts that are gone. `events`: what poll(2) says of [`Kept::watched`].
    pub fn let_go_of_ended(&mut self, events: &[PollFlags]) {
        let end = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let mut events = events.iter();
        self.descriptors
            .retain(|_| !events.next().is_some_and(|event| event.intersects(end)));
    }
}

fn is_connection(descriptor: &OwnedFd) -> bool {
    rustix::fs::fstat(descriptor).is_ok_and(|stat| {
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && device == FUSE_DEVICE
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn message(text: &str, descriptors: Vec<OwnedFd>) -> Message {
        Message {
            text: text.into(),
            descriptors,
        }
    }

    fn names(kept: &Kept) -> Vec<&str> {
        kept.iter().map(|(name, _)| name).collect()
    }

    fn poll(kept: &mut Kept) {
        let mut watched: Vec<PollFd<'_>> = kept.watched().collect();
        let now = rustix::time::Timespec::default();
        rustix::event::poll(&mut watched, Some(&now)).unwrap();
        let events: Vec<PollFlags> = watched.iter().map(PollFd::revents).collect();
        drop(watched);
        kept.let_go_of_ended(&events);
    }

    #[test]
    fn names_are_kept_until_they_are_let_go_of() {
        let mut kept = Kept::default();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let writers = vec![writer.try_clone().unwrap().into(), writer.into()];
        kept.hear(message("FDSTORE=1\nFDNAME=a", writers));
        kept.hear(message("FDNAME=b\nREADY=1\nFDSTORE=1", vec![file]));
        kept.hear(message("READY=1", vec![]));
        assert_eq!(names(&kept), ["a", "a", "b"]);
        poll(&mut kept);
        assert_eq!(names(&kept), ["a", "a", "b"]);
        kept.hear(message("FDSTOREREMOVE=1\nFDNAME=a", vec![]));
        assert_eq!(names(&kept), ["b"]);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "nobody has it");
        assert!(!kept.has_mounts());
    }

    #[test]
    fn what_has_ended_is_let_go_of() {
        let mut kept = Kept::default();
        let (reader, writer) = std::io::pipe().unwrap();
        let (_other, open) = std::io::pipe().unwrap();
        kept.hear(message(
            "FDSTORE=1\nFDNAME=a",
            vec![writer.into(), open.into()],
        ));
        kept.hear(message(
            "FDSTORE=1\nFDNAME=b",
            vec![tempfile::tempfile().unwrap().into()],
        ));
        drop(reader);
        poll(&mut kept);
        assert_eq!(names(&kept), ["a", "b"]);
    }

    #[test]
    fn only_a_message_about_descriptors_brings_some() {
        let mut kept = Kept::default();
        let (mut reader, writer) = std::io::pipe().unwrap();
        kept.hear(message("READY=1\nFDNAME=a", vec![writer.into()]));
        assert_eq!(names(&kept), [""; 0]);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn one_program_is_known() {
        let mut kept = Kept::default();
        assert!(kept.program().is_none());
        for _ in 0..2 {
            let file = tempfile::tempfile().unwrap().into();
            kept.hear(message("FDSTORE=1\nFDNAME=program", vec![file]));
        }
        assert!(kept.program().is_some());
        assert_eq!(names(&kept), [""; 0]);
    }
}
