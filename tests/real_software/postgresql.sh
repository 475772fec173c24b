# PostgreSQL: two rounds in which the whole server is killed while clients write, and recovers.
# $rows: how many transactions there must be before that.
programs=$(echo /usr/lib/postgresql/*/bin) data=/srv/data
install -d -o postgres -g postgres $data /run/bench
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
ask() { as "$programs/psql" -h /run/bench -d bench -Atqc "$1"; }
# A namespace of its own, which is killed as a whole.
start() {
    unshare --pid --fork setpriv --reuid=postgres --regid=postgres --init-groups \
        "$programs/postgres" -D $data -c listen_addresses= -c unix_socket_directories=/run/bench \
        >>/srv/log 2>&1 & server=$!
    until "$programs/pg_isready" -q -h /run/bench; do kill -0 $server; sleep 0.1; done
}
as "$programs/initdb" -D $data --data-checksums -A trust -E UTF8 --locale=C | grep -c ' ok'
(cd $data; find . -printf '%P %y %m %u\n' | grep -v 'pg_wal/' | sort | sha256sum)
start
as "$programs/createdb" -h /run/bench bench
as "$programs/pgbench" -h /run/bench -i -q -s 2 bench 2>/dev/null
ask 'CREATE EXTENSION amcheck'
seen=0
for round in 1 2; do
    as "$programs/pgbench" -h /run/bench -n -c 4 -j 2 -T 3000 bench >/srv/bench 2>&1 & clients=$!
    until [ "$seen" -ge $((rows * round)) ]; do seen=$(ask 'SELECT count(*) FROM pgbench_history'); done
    kill -9 $(cat /proc/$server/task/$server/children)
    { wait $server || code=$?; } 2>/dev/null; echo "server: $code"
    wait $clients || echo 'the clients notice'
    start
    kept=$(ask 'SELECT count(*) FROM pgbench_history')
    [ "$kept" -ge "$seen" ] && echo 'what was committed is there'
    ask 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers),
        (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches),
        (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
        (SELECT count(*) FROM pgbench_accounts)'
    as "$programs/pg_amcheck" -h /run/bench -d bench --heapallindexed && echo 'tables and indexes agree'
done
ask 'VACUUM FULL'
as "$programs/pg_dump" -h /run/bench -s bench | grep -c TABLE
kill -INT $(cat /proc/$server/task/$server/children); wait $server
as "$programs/pg_checksums" --check -D $data | grep -i bad
grep -c 'database system was not properly shut down' /srv/log
! grep PANIC /srv/log
