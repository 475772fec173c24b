//! git with real content.

use crate::workshop::Workshop;

/// Where the indexes lie. They say which inode number and ctime each file had.
const INDEXES: [&str; 5] = [
    "srv/project/.git/index",
    "srv/linked/.git/index",
    "srv/linked/.git/worktrees/beside/index",
    "srv/packed/.git/index",
    "srv/shallow/.git/index",
];

/// What git knows of each file, its inode number and ctime included, still holds: it need not read
/// a single one to say so.
const UNTOUCHED: &str = r#"
    for repository in project linked packed beside shallow; do
        git -C /srv/$repository diff-files
        git -C /srv/$repository fsck --connectivity-only --no-dangling
    done
"#;

#[test]
fn git_keeps_a_history() {
    let Some(workshop) = Workshop::open("git_keeps_a_history", "workshop") else {
        return;
    };
    workshop.both(include_str!("git.sh"));
    let shown = workshop.assert_alike(&INDEXES);
    workshop.finish(&shown, UNTOUCHED);
}
