# ETXTBSY both ways, and the ways around it that installers go.
exec 2>&1
cd /usr/local/bin
try() { "$@" && echo "$1: done" || echo "$1: $?"; }
# A shared program that was never touched, a copy, and one whose shared content was promoted.
cp /usr/bin/sleep own; cp -l /usr/bin/tail linked; echo >>/usr/bin/head
for program in /usr/bin/sleep ./own; do
    $program 300 & pid=$!
    until [ "$(readlink /proc/$pid/exe)" = "$(realpath $program)" ]; do :; done
    try dd if=/dev/zero of=$program bs=1 count=1 conv=notrunc status=none
    try cp /usr/bin/cat $program
    try truncate -s 5 $program
    (exec 5<$program; cat <&5 | sha256sum)
    try chmod 755 $program
    # Where the clock has moved on it is folded meanwhile.
    sleep 1
    try truncate -s 5 $program
    ln -f $program other; try truncate -s 5 other
    cp $program new; mv -f new $program; try truncate -s +1 $program
    cmp -s /proc/$pid/exe $program || echo "as expected: $?"
    kill $pid; wait $pid || echo $?
done
rm other
# The other way: what somebody writes to cannot be run.
cp /usr/bin/echo written; exec 7>>written
try ./written hello
exec 7>&-
try ./written hello
/usr/bin/tail -f /dev/null & pid=$!
until [ "$(readlink /proc/$pid/exe)" = /usr/bin/tail ]; do :; done
try truncate -s 5 linked
rm /usr/bin/tail; readlink /proc/$pid/exe; sha256sum </proc/$pid/exe
kill $pid; wait $pid || echo $?
try truncate -s 5 linked
head -n 1 /etc/debian_version >/dev/null; echo $?
