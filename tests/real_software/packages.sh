# apt and dpkg: packages with their dependencies, an upgrade of essential ones (dpkg and the C
# library among them), configuration that the administrator changed, removal and purge.
apt() { apt-get -qq -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"; }
sound() {
    apt-get -qq check
    dpkg --audit
    dpkg --verify
    dpkg-query -W -f '${Package} ${Version} ${Status}\n' | sha256sum
}
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
echo 'deb [trusted=yes] file:/mnt/old ./' >/etc/apt/sources.list
apt update
sound
apt install --no-install-recommends git rsync sqlite3 systemd 2>&1 | grep -v '^debconf: '
sound
git --version; rsync --version | sed -n 1p; sqlite3 :memory: 'select 6 * 7'

echo 'deb [trusted=yes] copy:/mnt/new ./' >>/etc/apt/sources.list
echo '# changed by the administrator' >>/etc/login.defs
echo '# and this one' >>/etc/skel/.bashrc
apt update
apt-get -qq -s upgrade | grep -c '^Inst'
apt upgrade 2>&1 | grep -v '^debconf: '
# What the administrator changed is said to be changed, and nothing else.
sound
dpkg-query -W | grep -c workshop1
tail -n 1 /etc/login.defs /etc/login.defs.dpkg-dist /etc/skel/.bashrc
cat /usr/share/doc/bash/NEWS.workshop
ls /usr/share/doc/coreutils

# Back to the old version of one, the same once more of another, and away with others.
apt --allow-downgrades install bash="$(apt-cache madison bash | awk '/old/ { print $3 }')"
apt --reinstall install coreutils perl-base
apt remove rsync
apt purge git systemd
apt autoremove --purge
apt clean
sound
