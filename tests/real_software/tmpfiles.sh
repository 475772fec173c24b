# systemd-tmpfiles with the system's own configuration, and with one that uses most types of lines.
cat >/etc/tmpfiles.d/workshop.conf <<'END'
d /srv/made 2750 daemon mail -
d /srv/aged 0755 - - 1d
D /srv/emptied 0700 root root -
e /srv/there 0711 nobody nogroup 1d
f /srv/made/file 0640 daemon mail - with\x20content\n
f+ /srv/truncated 0600 - - - anew
w /srv/written - - - - first
w+ /srv/written - - - - , second
L /srv/link - - - - made/file
L+ /srv/forced - - - - /nowhere
p /srv/pipe 0620 daemon mail -
c /srv/null 0666 - - - 1:3
b /srv/block 0600 - - - 7:42
C /srv/copied 0755 daemon mail - /usr/share/common-licenses
v /srv/volume 0755 - - -
q /srv/quota 0755 - - -
z /srv/g*b 0604 games games -
Z /srv/tree ~0750 man man -
t /srv/made/file - - - - user.origin=workshop
a /srv/made/file - - - - u:games:r,g:mail:rw
A+ /srv/tree - - - - d:u:games:rx
r /srv/removed-*
R /srv/removed.d
x /srv/aged/kept
END
mkdir -p /srv/{emptied,there,aged/kept,tree/a/b,removed.d/deep}; echo x >/srv/emptied/x
echo long content >/srv/truncated; echo >/srv/written; echo file >/srv/forced; echo >/srv/glob; echo >/srv/gob
for i in $(seq 200); do echo $i >/srv/tree/a/b/$i; done; touch /srv/removed-{1,2} /srv/removed.d/deep/x
chmod +x /srv/tree/a/b/1*
touch -d 2001-01-01T00:00:00.5 /srv/aged/old /srv/aged/kept/old /srv/there/old; touch /srv/aged/young
exec 2>&1
list() { find "$1" -printf '%P %M %u:%g %n %l\n' | LC_ALL=C sort; }
status() { "$@" || echo "$1: $?"; }
status systemd-tmpfiles --create --remove --boot
status systemd-tmpfiles --create
status systemd-tmpfiles --clean
list /srv
cat /srv/made/file /srv/truncated /srv/written
# The same into another root.
mkdir -p /srv/root/etc/tmpfiles.d; cp /etc/passwd /etc/group /srv/root/etc/
printf '%s\n' 'd /srv/a 0750 games games -' 'f /srv/a/f 0644 - - - x' 'L /srv/l - - - - a' >/srv/root/etc/tmpfiles.d/x.conf
status systemd-tmpfiles --create --root=/srv/root
list /srv/root
