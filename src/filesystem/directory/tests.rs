use super::*;
use crate::filesystem::test_image::{ROOT, TestImage};

fn boxed(names: &[&str]) -> Vec<Box<[u8]>> {
    names.iter().map(|name| name.as_bytes().into()).collect()
}

/// All entries behind a cookie, at most `room` of them.
fn read(image: &TestImage, node: &Arc<Node>, behind: u64, room: usize) -> Vec<(String, u64, u64)> {
    let mut entries = Vec::new();
    let take = &mut |entry: &Entry<'_>| {
        if entries.len() == room {
            return false;
        }
        let name = String::from_utf8(entry.name.to_vec()).unwrap();
        entries.push((name, entry.number.get(), entry.cookie));
        true
    };
    image.fs.read_directory(node, behind, take).unwrap();
    entries
}

#[test]
fn entries_come_once_in_pieces_of_any_size() {
    let image = TestImage::new();
    let node = image.node("dir");
    let all = read(&image, &node, START, usize::MAX);
    let mut names: Vec<_> = all.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names[..2], [".", ".."]);
    names.sort_unstable();
    assert_eq!(names, [".", "..", "empty", "file", "link", "twin"]);
    for room in 1..7 {
        let mut behind = START;
        let mut pieces = Vec::new();
        loop {
            let piece = read(&image, &node, behind, room);
            let Some((_, _, cookie)) = piece.last() else {
                break;
            };
            behind = *cookie;
            pieces.extend(piece);
        }
        assert_eq!(pieces, all);
    }
    assert_eq!(all[0].1, node.number.get());
    assert_eq!(all[1].1, 1);
}

#[test]
fn a_listing_with_attributes_counts_lookups_of_what_was_taken() {
    let image = TestImage::new();
    let node = image.node("dir");
    let nodes = image.fs.nodes();
    let mut taken = Vec::new();
    let take = &mut |entry: &Entry<'_>, attributes: &Attributes| {
        assert_eq!(entry.number, attributes.number);
        if taken.len() == 4 {
            return false;
        }
        taken.push(entry.number);
        true
    };
    image.fs.read_directory_plus(&node, START, take).unwrap();
    assert_eq!(image.fs.nodes(), nodes + 2);
    for number in &taken[2..] {
        image.fs.forget(*number, 1);
    }
    assert_eq!(image.fs.nodes(), nodes);
}

#[test]
fn names_alike_get_cookies_of_their_own_that_stay() {
    let alike = |name: &[u8]| if name[0] == b'x' { 100 } else { 200 };
    let names = |listing: &Listing| {
        let mut names: Vec<_> = listing.0.clone();
        names.sort_by(|left, right| left.1.cmp(&right.1));
        names
            .into_iter()
            .map(|(cookie, _)| cookie)
            .collect::<Vec<_>>()
    };
    let first = Listing::new(
        boxed(&["xc", "xb", "y"]).into_iter(),
        &Listing::default(),
        alike,
    );
    assert_eq!(names(&first), [100, 101, 200]);
    // One of them goes, another comes: who stayed keeps its cookie.
    let second = Listing::new(boxed(&["xa", "xc", "y"]).into_iter(), &first, alike);
    assert_eq!(names(&second), [102, 101, 200]);
    assert!(second.0.is_sorted());
    let end = |_: &[u8]| END - 1;
    let wrapped = Listing::new(boxed(&["a", "b"]).into_iter(), &Listing::default(), end);
    assert_eq!(names(&wrapped), [END - 1, FIRST]);
}

#[test]
fn cookies_are_positions_that_fit_into_an_offset() {
    for name in ["a", "b", "file", "\u{ff}"] {
        let cookie = cookie_of(name.as_bytes());
        assert!((FIRST..END).contains(&cookie));
    }
    // Part of what nfsd and programs keep across remounts: never change it.
    assert_eq!(cookie_of(b"file"), 1991699577349446718);
}

/// Entries that nobody touches come exactly once, whatever else happens in between, also by
/// telldir(3) and seekdir(3); entries that are there at the end of it all come after rewinddir(3).
#[test]
fn untouched_entries_come_once_while_others_come_and_go() {
    use crate::filesystem::rename::Entry as Name;
    use rustix::fs::RenameFlags;

    let image = TestImage::new();
    let dir = image.node("dir");
    for number in 0..200 {
        image.make(&dir, &format!("stays{number}"), b"");
        image.make(&dir, &format!("goes{number}"), b"");
        image.make(&dir, &format!("moves{number}"), b"");
    }
    let mut behind = START;
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut told = Vec::new();
    for round in 0.. {
        let piece = read(&image, &dir, behind, 37);
        let Some((_, _, cookie)) = piece.last() else {
            break;
        };
        told.push((behind, piece.clone()));
        behind = *cookie;
        for (name, ..) in piece {
            *seen.entry(name).or_default() += 1;
        }
        for number in round * 10..round * 10 + 10 {
            let goes = format!("goes{number}");
            if number < 200 {
                image.fs.unlink(&dir, goes.as_bytes()).unwrap();
                let (old, new) = (format!("moves{number}"), format!("moved{number}"));
                let name = |name| Name { parent: &dir, name };
                let (old, new) = (name(old.as_bytes()), name(new.as_bytes()));
                image
                    .fs
                    .rename(old, new, RenameFlags::empty(), ROOT)
                    .unwrap();
            }
            image.make(&dir, &format!("comes{number}"), b"");
        }
    }
    let stays = |name: &str| name.starts_with("stays") || ["file", "twin", "link"].contains(&name);
    assert!(seen.values().all(|&count| count == 1));
    assert_eq!(seen.keys().filter(|name| stays(name)).count(), 203);
    // Back to where a piece began, with names that were read since.
    assert!(read(&image, &dir, START, usize::MAX).len() > 600);
    for (behind, piece) in told.iter().rev().step_by(5) {
        let untouched: Vec<_> = piece.iter().filter(|(name, ..)| stays(name)).collect();
        let again = read(&image, &dir, *behind, usize::MAX);
        let mut again = again.iter().filter(|(name, ..)| stays(name));
        for entry in &untouched {
            assert_eq!(again.next(), Some(*entry));
        }
    }
}

#[test]
fn a_large_directory_is_listed_in_linear_time() {
    let image = TestImage::new();
    let sub = image.node("sub");
    let time = |count: usize| {
        let start = std::time::Instant::now();
        let (mut behind, mut found) = (START, 0);
        loop {
            let piece = read(&image, &sub, behind, 100);
            let Some((_, _, cookie)) = piece.last() else {
                break;
            };
            behind = *cookie;
            found += piece.len();
        }
        assert_eq!(found, count + 2);
        start.elapsed()
    };
    for number in 0..500 {
        image.make(&sub, &format!("a{number}"), b"");
    }
    let small = time(500);
    for number in 0..2000 {
        image.make(&sub, &format!("b{number}"), b"");
    }
    let large = time(2500);
    assert!(large < small * 30, "{small:?} {large:?}");
}

#[test]
fn many_readers_of_a_directory_see_all_of_it() {
    let image = TestImage::new();
    let sub = image.node("sub");
    for number in 0..200 {
        image.make(&sub, &format!("a{number}"), b"");
    }
    let readers = 2 * READERS;
    let mut behind = vec![START; readers];
    let mut seen = vec![0; readers];
    while behind.iter().any(|&behind| behind != END) {
        for (behind, seen) in behind.iter_mut().zip(&mut seen) {
            let piece = read(&image, &sub, *behind, 7);
            *seen += piece.len();
            *behind = piece.last().map_or(END, |(_, _, cookie)| *cookie);
        }
    }
    assert!(seen.iter().all(|&seen| seen == 202), "{seen:?}");
}

#[test]
fn who_comes_with_another_cookie_sees_what_came_meanwhile() {
    let image = TestImage::new();
    let dir = image.node("dir");
    let all = read(&image, &dir, START, usize::MAX);
    // Somebody reads on behind "..", somebody else has sought there.
    let piece = read(&image, &dir, START, 1);
    assert_eq!(piece[0].2, DOT);
    image.make(&dir, "new", b"");
    let sought = read(&image, &dir, DOT_DOT, usize::MAX);
    assert_eq!(sought.len(), all.len() - 2 + 1);
    let read_on = read(&image, &dir, DOT, usize::MAX);
    assert!(read_on.len() >= all.len() - 1);
}
