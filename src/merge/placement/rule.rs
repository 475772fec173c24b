//! The rule: which version of a path lies in the shared layer.

use crate::merge::version::Version;
use crate::store::catalog::Share;

/// What one image of the family holds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ballot {
    /// Nothing.
    Lacks,
    /// A directory, whatever its metadata.
    Directory,
    /// A version that the shared layer could hold.
    Version(Version),
    /// Something that it could not: content that is no object, a file of several names that the
    /// image has changed, a directory that was renamed to here; or what an administrator pinned.
    Other,
}

/// What the shared layer should hold at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// A version.
    Version(&'a Version),
}

impl<'a> Choice<'a> {
    fn of(ballot: &'a Ballot) -> Option<Self> {
        match ballot {
            Ballot::Directory => Some(Choice::Directory),
            Ballot::Version(version) => Some(Choice::Version(version)),
            Ballot::Lacks | Ballot::Other => None,
        }
    }
}

/// Decides a path. `ballots`: one for each image of the family that has a vote; `base`: which of
/// them is the base's; `now`: what the shared layer holds.
///
/// Majority: the version held by most, if at least two hold it (or the only one) and more hold it
/// than lack the path altogether; on a tie the base's, then the one that is shared now, then the
/// one of the first image. All: what all hold alike.
pub fn decide<'a>(
    share: Share,
    ballots: &'a [Ballot],
    base: Option<usize>,
    now: Choice<'a>,
) -> Choice<'a> {
    let mut counts: Vec<(Choice<'a>, usize)> = Vec::new();
    for choice in ballots.iter().filter_map(Choice::of) {
        match counts.iter_mut().find(|(known, _)| *known == choice) {
            Some((_, count)) => *count += 1,
            None => counts.push((choice, 1)),
        }
    }
    let Some(most) = counts.iter().map(|(_, count)| *count).max() else {
        return Choice::Nothing;
    };
    let lacking = ballots.iter().filter(|ballot| **ballot == Ballot::Lacks);
    let enough = match share {
        Share::Majority => most >= ballots.len().min(2) && most > lacking.count(),
        Share::All => most == ballots.len(),
    };
    if !enough {
        return Choice::Nothing;
    }
    counts.retain(|(_, count)| *count == most);
    let bases = base.and_then(|base| Choice::of(&ballots[base]));
    let tied = |choice: &Choice<'a>| counts.iter().any(|(known, _)| known == choice);
    let first = counts.first().map(|(choice, _)| *choice);
    let preferred = [bases, Some(now), first].into_iter().flatten();
    preferred.into_iter().find(tied).unwrap_or(Choice::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::metadata::{Content, Metadata, Time, Xattrs};
    use proptest::prelude::*;

    fn version(mode: u32) -> Version {
        Version {
            content: Content::Fifo,
            metadata: Metadata {
                mode,
                uid: 0,
                gid: 0,
                mtime: Time::default(),
                xattrs: Xattrs::new(),
            },
            group: None,
        }
    }

    fn ballot(letter: char) -> Ballot {
        match letter {
            '-' => Ballot::Lacks,
            'd' => Ballot::Directory,
            '?' => Ballot::Other,
            letter => Ballot::Version(version(letter as u32)),
        }
    }

    fn decided(share: Share, ballots: &str, now: char) -> char {
        let ballots: Vec<_> = ballots.chars().map(ballot).collect();
        let now = ballot(now);
        let now = Choice::of(&now).unwrap_or(Choice::Nothing);
        match decide(share, &ballots, Some(0), now) {
            Choice::Nothing => '-',
            Choice::Directory => 'd',
            Choice::Version(version) => char::from_u32(version.metadata.mode).unwrap(),
        }
    }

    #[test]
    fn majority() {
        for (ballots, now, expected) in [
            ("a", '-', 'a'),
            ("aa", '-', 'a'),
            ("ab", 'a', '-'),
            ("abb", 'a', 'b'),
            ("aabb", 'b', 'a'),
            ("?aabb", 'b', 'b'),
            ("?aabb", '-', 'a'),
            ("aa-", '-', 'a'),
            ("aa--", 'a', '-'),
            ("a--", 'a', '-'),
            ("aab--", 'a', '-'),
            ("aaa--", '-', 'a'),
            ("dda", 'a', 'd'),
            ("??", 'a', '-'),
            ("", 'a', '-'),
        ] {
            let choice = decided(Share::Majority, ballots, now);
            assert_eq!(choice, expected, "{ballots} now {now}");
        }
    }

    #[test]
    fn all() {
        for (ballots, expected) in [("aa", 'a'), ("aab", '-'), ("aa-", '-'), ("aa?", '-')] {
            assert_eq!(decided(Share::All, ballots, 'a'), expected, "{ballots}");
        }
    }

    proptest! {
        #[test]
        fn what_is_decided_holds_the_rule_and_is_stable(
            ballots in "[-?dabc]{1,8}", now in proptest::char::range('a', 'c'),
        ) {
            let choice = decided(Share::Majority, &ballots, now);
            let count = |letter: char| ballots.chars().filter(|&other| other == letter).count();
            let needed = ballots.len().min(2);
            let eligible = |letter: char| count(letter) >= needed && count(letter) > count('-');
            if choice == '-' {
                prop_assert!(!"abcd".chars().any(eligible));
            } else {
                prop_assert!(eligible(choice));
                prop_assert!("abcd".chars().all(|other| count(other) <= count(choice)));
            }
            prop_assert_eq!(decided(Share::Majority, &ballots, choice), choice);
        }
    }
}
