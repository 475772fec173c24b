//! SQLite with several processes at once, one of which is killed.

use crate::workshop::Workshop;

#[test]
fn sqlite_keeps_its_promises() {
    let Some(workshop) = Workshop::open("sqlite_keeps_its_promises", "workshop") else {
        return;
    };
    workshop.both(include_str!("sqlite.sh"));
    // In which order the processes wrote differs.
    let shown = workshop.assert_alike(&["srv/bank"]);
    workshop.finish(
        &shown,
        "for database in /srv/bank/*.db; do
            sqlite3 $database 'PRAGMA integrity_check; SELECT sum(balance) FROM account; SELECT count(*) FROM movement'
        done",
    );
}
