# PostgreSQL with clients that write, until /mnt/enough is there: nothing may fail, and the server never notices.
programs=$(echo /usr/lib/postgresql/*/bin) data=/srv/data
install -d -o postgres -g postgres $data /run/bench
as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
ask() { as "$programs/psql" -h /run/bench -d bench -Atqc "$1"; }
as "$programs/initdb" -D $data --data-checksums --no-sync -A trust -E UTF8 --locale=C >/dev/null
as "$programs/pg_ctl" -D $data -w -t 120 -l $data/log \
    -o "-c listen_addresses= -c unix_socket_directories=/run/bench" start >/dev/null
as "$programs/createdb" -h /run/bench bench
as "$programs/pgbench" -h /run/bench -i -q -s 1 bench 2>/dev/null
ask 'CREATE EXTENSION amcheck'
transactions=0
touch /mnt/begun
until [ -e /mnt/enough ]; do
    as "$programs/pgbench" -h /run/bench -n -c 4 -j 2 -T 2 bench >/srv/bench 2>&1 || { cat /srv/bench; exit 1; }
    ! grep -i error /srv/bench
    some=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' /srv/bench)
    transactions=$((transactions + some))
    ! grep 'failed transactions' /srv/bench | grep -v ': 0 '
done
echo "postgresql_goes_on: $transactions transactions" >&2
ask "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers),
    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches),
    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
    (SELECT count(*) FROM pgbench_history) = $transactions"
as "$programs/pg_amcheck" -h /run/bench -d bench --heapallindexed
as "$programs/pg_ctl" -D $data -w -t 120 stop >/dev/null
as "$programs/pg_checksums" --check -D $data >/dev/null && echo sound
! grep -E 'ERROR|FATAL|PANIC|not properly shut down' $data/log && echo 'nothing failed'
