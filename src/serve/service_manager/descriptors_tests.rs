use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

fn kept(manager: Option<&Path>, most: Option<usize>) -> Kept {
    Kept {
        manager: manager.map(|path| path.as_os_str().to_owned()),
        most,
        names: Mutex::default(),
    }
}

fn listen(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// One message and what came beside it.
fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut text = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(socket::MOST))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let got = recvmsg(socket, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut found = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found.extend(descriptors);
        }
    }
    text.truncate(got.bytes);
    (String::from_utf8(text).unwrap(), found)
}

#[test]
fn a_manager_gets_descriptors_with_their_name() {
    let place = tempfile::tempdir().unwrap();
    let manager = listen(&place.path().join("notify"));
    let kept = kept(Some(&place.path().join("notify")), Some(10));
    let (mut reader, writer) = std::io::pipe().unwrap();
    kept.keep("image 7", &[writer.as_fd()]).unwrap();
    drop(writer);

    let (text, mut found) = receive(&manager);
    assert_eq!(text, "FDSTORE=1\nFDNAME=image 7");
    assert_eq!(found.len(), 1);
    let mut stored = File::from(found.remove(0));
    stored.write_all(b"it works").unwrap();
    drop(stored);
    kept.let_go("image 7");
    // Nobody has the other end any more.
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said, "it works");
    assert_eq!(receive(&manager).0, "FDSTOREREMOVE=1\nFDNAME=image 7");

    kept.let_go("image 7");
    kept.keep("last", &[]).unwrap();
    kept.let_go("last");
    let (text, found) = receive(&manager);
    assert_eq!(
        (text.as_str(), found.len()),
        ("FDSTOREREMOVE=1\nFDNAME=last", 0)
    );
}

#[test]
fn many_come_in_several_messages() {
    let place = tempfile::tempdir().unwrap();
    let manager = listen(&place.path().join("notify"));
    let kept = kept(Some(&place.path().join("notify")), None);
    let (reader, _writer) = std::io::pipe().unwrap();
    let many = vec![reader.as_fd(); socket::MOST + 2];
    kept.keep("many", &many).unwrap();
    let counts = [receive(&manager).1.len(), receive(&manager).1.len()];
    assert_eq!(counts, [socket::MOST, 2]);
}

#[test]
fn names_are_checked() {
    let kept = kept(None, None);
    let (reader, _writer) = std::io::pipe().unwrap();
    for bad in ["", "a:b", "a\nFDSTORE=1", "ä", &"x".repeat(256)] {
        let error = kept.keep(bad, &[reader.as_fd()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
    }
    kept.keep(&"x".repeat(255), &[reader.as_fd()]).unwrap();
    assert_eq!(kept.names.lock().len(), 1);
}

#[test]
fn what_the_manager_does_not_take_is_remembered() {
    let place = tempfile::tempdir().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let nobody = kept(Some(&place.path().join("nobody")), None);
    nobody.keep("one", &[reader.as_fd()]).unwrap_err();
    assert_eq!(nobody.names.lock()["one"].len(), 1);

    let manager = listen(&place.path().join("notify"));
    let full = kept(Some(&place.path().join("notify")), Some(1));
    full.keep("one", &[reader.as_fd()]).unwrap();
    let error = full.keep("two", &[reader.as_fd()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(full.names.lock()["two"].len(), 1);
    assert_eq!(receive(&manager).0, "FDSTORE=1\nFDNAME=one");
}

#[test]
fn what_is_taken_over_is_kept() {
    let kept = kept(None, None);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let passed = vec![("image 7".to_owned(), OwnedFd::from(writer))];
    let taken = kept.take_over(passed);
    assert_eq!(taken[0].0, "image 7");
    drop(taken);
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let error = reader.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "a writer is left");
    kept.let_go("image 7");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}
