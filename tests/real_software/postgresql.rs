//! PostgreSQL under load, killed and recovered.

use crate::common::drive::operations;
use crate::workshop::Workshop;

/// The server started once more, on what it left behind.
const AGAIN: &str = r#"
    as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
    programs=$(echo /usr/lib/postgresql/*/bin)
    as $programs/pg_checksums --check -D /srv/data | grep -i bad
    as $programs/pg_ctl -D /srv/data -w -l /srv/data/log -o "-c listen_addresses= -c unix_socket_directories=/run/bench" start >/dev/null
    as $programs/psql -h /run/bench -d bench -Atqc 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)'
    as $programs/pg_amcheck -h /run/bench -d bench
    as $programs/pg_ctl -D /srv/data -w stop >/dev/null
"#;

#[test]
fn postgresql_recovers_from_a_kill() {
    let Some(workshop) = Workshop::open("postgresql_recovers_from_a_kill", "postgresql") else {
        return;
    };
    let rows = operations(300).min(20_000);
    workshop.both(&format!("rows={rows}\n{}", include_str!("postgresql.sh")));
    let shown = workshop.first.snapshot();
    workshop.finish(&shown, AGAIN);
}
