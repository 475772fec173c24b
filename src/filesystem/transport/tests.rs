use super::*;
use crate::filesystem::node::{Node, Place, Source};
use crate::store::metadata::FileType;

fn node() -> Node {
    let number = Number::new(7).unwrap();
    Node::new(number, FileType::Regular, Place::Unlinked, Source::Private)
}

/// Opens a handle at the current nodeid; the answer lives as long as the registration does.
fn open(state: &mut State, host: Host) -> std::sync::Weak<dyn Any + Send + Sync> {
    let hold: Arc<dyn Any + Send + Sync> = Arc::new(());
    let transport = state.transport.get_or_insert_default();
    let known = Arc::downgrade(&hold);
    let (mode, handles) = match transport.current.take() {
        Some((mode, handles)) => (mode, handles),
        None => (Mode::Direct(Registered::new(9, hold), host), 0),
    };
    let known = match &mode {
        Mode::Direct(kept, _) => Arc::downgrade(&kept._hold),
        Mode::Cached => known,
    };
    transport.current = Some((mode, handles + 1));
    known
}

#[test]
fn a_file_stays_registered_until_the_last_handle_of_its_nodeid_is_closed() {
    let node = node();
    let mut state = node.state.lock();
    let file = open(&mut state, Host::Object);
    open(&mut state, Host::Object);
    let nodeid = state.identity().nodeid(node.number);
    assert_eq!(nodeid, 7);
    assert_eq!(state.flip_if(node.number, |_| false).unwrap(), None);
    assert_eq!(state.flip_if(node.number, |_| true).unwrap(), Some(7));
    assert_eq!(flip_of(state.identity().nodeid(node.number)), 1);
    assert!(state.identity().volatile && state.may_not_flip() && !state.is_direct());

    let other = open(&mut state, Host::Private);
    drop(state.closed(0));
    assert!(file.upgrade().is_some());
    drop(state.closed(0));
    assert!(file.upgrade().is_none() && other.upgrade().is_some());
    drop(state.closed(1));
    assert!(other.upgrade().is_none());
}

#[test]
fn a_nodeid_is_not_taken_again_while_handles_have_it() {
    let node = node();
    let mut state = node.state.lock();
    for generation in 0..=255 {
        assert_eq!(state.identity().flip, generation);
        let transport = state.transport.get_or_insert_default();
        assert!(!transport.stale_pages, "{generation} is new to the kernel");
        open(&mut state, Host::Object);
        let flipped = state.flip_if(node.number, |_| true);
        assert_eq!(flipped.is_err(), generation == 255, "{flipped:?}");
    }
    // One of them is closed: its nodeid is free, and the kernel may have pages of it.
    drop(state.closed(9));
    state.flip_if(node.number, |_| true).unwrap();
    let transport = state.transport.get_or_insert_default();
    assert_eq!((transport.flip, transport.stale_pages), (9, true));
}

#[test]
fn a_nodeid_that_comes_back_from_a_handle_is_the_current_one_if_none_is_open() {
    let node = node();
    let mut state = node.state.lock();
    let back = Identity {
        flip: 3,
        volatile: true,
    };
    assert_eq!(state.recall_as(3), back);
    assert_eq!(state.identity(), back);
    open(&mut state, Host::Object);
    assert_eq!(state.recall_as(0).flip, 0);
    assert_eq!(state.identity().flip, 3);
}
