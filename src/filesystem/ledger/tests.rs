use super::*;

fn number(value: u64) -> Number {
    Number::new(value).unwrap()
}

fn handle(id: u64) -> OpenHandle {
    OpenHandle {
        number: number(20),
        id,
        flip: 200,
        writes: true,
        executes: false,
        registered: u32::MAX,
        object: Some(Digest::of(b"content")),
        request: 1 << 62,
    }
}

/// As another process has it.
fn again(ledger: &Ledger) -> Arc<Ledger> {
    Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn what_is_noted_is_read_by_the_next_one_and_what_is_dropped_is_not() {
    let ledger = Ledger::new().unwrap();
    let time = Time {
        seconds: 1_800_000_000,
        nanoseconds: 999_999_999,
    };
    let node = ledger.add_node(number(20)).unwrap();
    let gone = ledger.add_node(number(21)).unwrap();
    let last = ledger.add_node(number(Number::END - 1)).unwrap();
    node.set_lookups(3);
    node.set_state(77, Some(time));
    drop(gone);
    let opened = ledger.add_handle(&handle(9)).unwrap();
    let registered = ledger.add_registered(5).unwrap();
    ledger.describe("a mount".as_bytes()).unwrap();

    let next = again(&ledger);
    assert_eq!(next.description(), b"a mount");
    let known: Vec<_> = next.known_nodes().iter().map(|(node, _)| *node).collect();
    let expected = |number, lookups, transport, unlinked| KnownNode {
        number,
        lookups,
        transport,
        unlinked,
    };
    assert_eq!(
        known,
        [
            expected(number(20), 3, 77, Some(time)),
            expected(number(Number::END - 1), 0, 0, None)
        ]
    );
    let handles: Vec<_> = next.open_handles().iter().map(|(it, _)| *it).collect();
    assert_eq!(handles, [handle(9)]);
    let files: Vec<_> = next.registered().iter().map(|(id, _)| *id).collect();
    assert_eq!(files, [5]);
    // Reading them took them over; dropping that gives their places back, once they are this one's.
    let counts = |ledger: &Ledger| {
        let areas = [NODES, HANDLES, REGISTERED];
        areas.map(|area| ledger.records(area).count())
    };
    assert_eq!(counts(&next), [2, 1, 1]);
    assert_eq!(
        counts(&again(&next)),
        [2, 1, 1],
        "for who comes after a failure"
    );
    next.go_on();
    assert_eq!(counts(&next), [0, 0, 0]);
    drop((node, last, opened, registered));
}

#[test]
fn places_are_used_again_and_a_process_that_leaves_takes_nothing_out() {
    let ledger = Ledger::new().unwrap();
    let entries: Vec<_> = (20..1020)
        .map(|value| ledger.add_node(number(value)).unwrap())
        .collect();
    drop(entries);
    for _ in 0..10 {
        drop(ledger.add_node(number(30)));
    }
    assert_eq!(NODES.used(ledger.words()), 0..1000);
    let kept = ledger.add_node(number(40)).unwrap();
    ledger.leave();
    drop(kept);
    let next = again(&ledger);
    next.go_on();
    assert_eq!(next.numbers().collect::<Vec<_>>(), [number(40)]);
    // What is free there is free for it.
    let more: Vec<_> = (0..999)
        .map(|value| next.add_node(number(2000 + value)).unwrap())
        .collect();
    assert_eq!(NODES.used(next.words()), 0..1000);
    drop(more);
}

#[test]
fn the_last_handle_is_known_when_it_is_closed() {
    let ledger = Ledger::new().unwrap();
    assert_eq!(ledger.last_handle(), 0);
    for id in [9, 7] {
        drop(ledger.add_handle(&handle(id)).unwrap());
    }
    assert_eq!(again(&ledger).last_handle(), 9);
}

#[test]
fn a_change_is_found_by_its_request() {
    let ledger = Ledger::new().unwrap();
    for request in 0..3000 {
        ledger.begin(&Begun {
            request: request * 2,
            number: number(100 + request),
        });
    }
    let next = again(&ledger);
    let found = next.begun(5000).unwrap();
    assert_eq!(found.number, number(2600));
    assert!(next.begun(5001).is_none() && next.begun(100).is_none());
}

#[test]
fn what_is_no_ledger_is_refused_and_damage_is_left_out() {
    let other = SharedWords::new("other", 100).unwrap();
    let opened = Ledger::open(other.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(opened.unwrap_err(), Errno::INVAL);

    let ledger = Ledger::new().unwrap();
    let words = ledger.words();
    for area in [NODES, HANDLES, REGISTERED, BEGUN] {
        words[area.used].store(40, Ordering::Relaxed);
        for word in &words[area.start..area.start + 40 * area.length] {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }
    words[DESCRIPTION_LENGTH].store(u64::MAX, Ordering::Relaxed);
    let next = again(&ledger);
    assert!(next.known_nodes().is_empty() && next.open_handles().is_empty());
    assert!(next.registered().is_empty() && next.begun(7).is_none());
    assert_eq!(next.description().len(), (HEAD - DESCRIPTION) * 8);
    words[NODES.used].store(u64::MAX, Ordering::Relaxed);
    assert_eq!(NODES.used(next.words()).end, NODES.most);

    words[0].store(MAGIC + 1, Ordering::Relaxed);
    let opened = Ledger::open(ledger.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(opened.unwrap_err(), Errno::INVAL);
}
