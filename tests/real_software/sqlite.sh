# Eight accounts among which several processes move money, in WAL mode and with a rollback journal;
# one of the processes is killed in the middle, and the next one has its journal to deal with.
mkdir -p /srv/bank; cd /srv/bank
settings='PRAGMA busy_timeout = 60000; PRAGMA synchronous = NORMAL;'
sql() { local database=$1; shift; sqlite3 -batch -bail "$database" "$settings" "$@" | sed '/^60000$/d'; }
for mode in wal delete; do
    sql $mode.db "PRAGMA journal_mode = $mode" \
        'CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)' \
        'CREATE TABLE movement(id INTEGER PRIMARY KEY, worker, amount, note TEXT)' \
        'CREATE INDEX by_note ON movement(note)' \
        'INSERT INTO account SELECT value, 1000 FROM generate_series(1, 8)'
done

# work MODE WORKER MOVEMENTS
work() {
    for i in $(seq "$3"); do
        from=$(((i + $2) % 8 + 1)) to=$(((i * 3 + $2 + 1) % 8 + 1)) amount=$((i % 17))
        printf 'BEGIN IMMEDIATE; UPDATE account SET balance = balance - %d WHERE id = %d;' $amount $from
        printf 'UPDATE account SET balance = balance + %d WHERE id = %d;' $amount $to
        printf "INSERT INTO movement(worker, amount, note) VALUES (%d, %d, hex(zeroblob(%d))); COMMIT;\n" \
            "$2" $amount $((i * 7 % 400))
        [ $((i % 25)) -ne 0 ] || echo 'SELECT sum(balance) FROM account;'
    done | { echo "$settings"; cat; } | sqlite3 -batch -bail "$1.db" | sed '/^60000$/d' | sort | uniq -c
}
for mode in wal delete; do
    for worker in 1 2 3 4; do work $mode $worker 100 >out.$worker & done
    for pid in $(jobs -p); do wait "$pid"; done
    cat out.*; rm out.*
    sql $mode.db 'SELECT sum(balance) FROM account' 'SELECT worker, count(*), sum(amount) FROM movement GROUP BY 1' \
        'PRAGMA integrity_check' 'PRAGMA journal_mode'
done

# A process dies in a transaction that has outgrown its cache, with pages of it in the file already.
mkfifo orders
for mode in wal delete; do
    sqlite3 -batch $mode.db <orders >out & writer=$!
    exec 5>orders
    echo "$settings PRAGMA cache_size = 10; BEGIN IMMEDIATE; UPDATE account SET balance = 0;
        INSERT INTO movement(worker, note) SELECT 99, hex(randomblob(500)) FROM generate_series(1, 2000);
        SELECT 'written';" >&5
    until grep -q written out; do sleep 0.02; done
    ls; test "$(stat -c %s $mode.db* | sort -n | tail -n 1)" -gt 1000000
    kill -9 $writer; wait $writer || echo $?
    exec 5>&-
    sql $mode.db 'SELECT sum(balance), min(balance) > 0 FROM account' 'SELECT count(*) FROM movement' 'PRAGMA integrity_check'
    rm out; ls
done 2>/dev/null

# What SQLite maps instead of reading, while others write; then a rewrite, a copy and a backup.
work wal 5 50 >out & 
sql wal.db 'PRAGMA mmap_size = 100000000' 'SELECT count(*) >= 400 FROM movement' 'PRAGMA quick_check'
wait; cat out; rm out
sql wal.db 'VACUUM' 'SELECT sum(balance) FROM account' '.backup copy.db'
sql delete.db "VACUUM INTO 'vacuumed.db'"
sqlite3 copy.db 'SELECT count(*), sum(amount) FROM movement; PRAGMA integrity_check'
sqlite3 vacuumed.db 'SELECT count(*), sum(amount) FROM movement; PRAGMA integrity_check'
ls
