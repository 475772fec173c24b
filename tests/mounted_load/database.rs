//! PostgreSQL, in an image and in a plain directory: one client with a seed, so that both hold the
//! same after the same number of transactions.

use std::path::Path;

use crate::Over;
use crate::common::assert_same_text;
use crate::common::store::TestStore;
use crate::workshop::run_chroot;

/// What every script begins with.
const SERVER: &str = r#"
    programs=$(echo /usr/lib/postgresql/*/bin) data=/srv/data
    as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
    install -d -o postgres /run/bench
    start() {
        as $programs/pg_ctl -D $data -w -l /srv/log \
            -o "-c listen_addresses= -c unix_socket_directories=/run/bench" start >/dev/null ||
            { tail -n 20 /srv/log >&2; exit 1; }
    }
    stop() { as $programs/pg_ctl -D $data -w stop >/dev/null; }
    ask() { as "$programs/psql" -h /run/bench -d bench -Atqc "$1"; }
    touch /srv/log; chown postgres /srv/log
"#;

const PREPARE: &str = r#"
    install -d -o postgres $data
    as "$programs/initdb" -D $data --data-checksums -A trust -E UTF8 --locale=C >/dev/null
    start
    as "$programs/createdb" -h /run/bench bench
    as "$programs/pgbench" -h /run/bench -i -q -s 1 bench >/dev/null 2>&1
    ask 'CREATE EXTENSION amcheck'
    stop
"#;

/// All that it holds but the moments at which it was written.
const ROUND: &str = r#"
    start
    as "$programs/pgbench" -h /run/bench -n -c 1 -t $transactions --random-seed=$seed bench >/dev/null 2>&1
    for table in accounts tellers branches; do
        ask "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM pgbench_$table t"
    done
    ask "SELECT count(*), md5(string_agg(row(tid, bid, aid, delta)::text, '|' ORDER BY tid, bid, aid, delta))
        FROM pgbench_history"
    ask VACUUM
    stop
"#;

const FINISH: &str = r#"
    as "$programs/pg_checksums" --check -D $data | grep -i bad
    start
    as "$programs/pg_amcheck" -h /run/bench -d bench --heapallindexed && echo 'tables and indexes agree'
    ask 'VACUUM FULL'
    as "$programs/pg_dump" -h /run/bench -d bench -t pgbench_accounts -t pgbench_tellers -t pgbench_branches |
        grep -v restrict | sha256sum
    ask 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)'
    stop
    as "$programs/pg_checksums" --check -D $data | grep -i bad
    ! grep PANIC /srv/log
"#;

/// Transactions of a round.
const TRANSACTIONS: u64 = 300;

fn both(roots: [&Path; 2], text: &str, what: &str) {
    let text = format!("{SERVER}\n{text}");
    let [expected, found] = roots.map(|root| run_chroot(root, None, &text).exits(0));
    assert_same_text(&expected.text(), &found.text(), what);
}

/// Makes the databases; a clone makes all files of the image's stubs, which are promoted when the
/// server is at work.
pub fn prepare(store: &TestStore, plain: &Path, image: &Path) {
    both([plain, image], PREPARE, "a new database");
    store.ok(&["clone", "three", "four"]);
}

/// Transactions as long as there is time, in both directories the same.
pub fn run(roots: [&Path; 2], over: &Over) -> u64 {
    let mut rounds = 0;
    while rounds == 0 || !over.is() {
        rounds += 1;
        let text = format!("transactions={TRANSACTIONS} seed={rounds}\n{ROUND}");
        both(roots, &text, "what the database holds");
    }
    rounds * TRANSACTIONS
}

/// Checksums, indexes and a dump.
pub fn finish(roots: [&Path; 2]) {
    both(roots, FINISH, "what the database holds at the end");
}
