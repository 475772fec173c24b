# What a container engine does: kernel overlayfs with its upper and work directories here, and a
# small container in it. Below lies a Debian tree, as /mnt.
mkdir -p /srv/upper /srv/work /srv/merged
layers() { mount -t overlay overlay -o lowerdir=/mnt,upperdir=/srv/upper,workdir=/srv/work,redirect_dir=on,uuid=null /srv/merged; }
see() {
    find /srv/merged -xdev -printf '%P %y %m %U:%G %s %l %n\n' | grep -v '^[^ ]* d' | LC_ALL=C sort | sha256sum
    find /srv/merged -xdev -type d -printf '%P %m %U:%G\n' | LC_ALL=C sort | sha256sum
    find /srv/merged -xdev -path /srv/merged/var/log -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}
layers
see
cd /srv/merged
rm etc/motd usr/bin/tac                                 # whiteouts
rm -r usr/share/doc; ls usr/share/doc 2>&1 || echo gone
mkdir usr/share/doc; echo new >usr/share/doc/new; ls usr/share/doc   # an opaque directory
rm -r var/cache; mkdir -m 750 var/cache; ls -A var/cache
mv usr/share/zoneinfo usr/share/zones; ls usr/share/zones | wc -l      # redirects
mv usr/lib/apt usr/share/zones/apt; mv usr/share/zones/apt/methods opt/methods; ls opt/methods
mkdir usr/lib/apt; echo other >usr/lib/apt/other
mv usr/share/common-licenses/GPL-3 srv/licence; ln srv/licence srv/link; echo more >>srv/link; tail -n 1 srv/licence
chmod 600 etc/passwd; chown -R 5:6 etc/apt; touch -d 2001-01-01T00:00:01 etc/hostname
ln -sf /nowhere etc/localtime; mkfifo run/fifo; mknod dev/whole c 1 5; mknod srv/nothing c 0 0 2>&1 || echo refused
cp -a usr/bin/sed usr/bin/new; mv usr/bin/new usr/bin/sed; sed -i s/root/toor/ etc/group; truncate -s 3 etc/issue
mv -T etc/skel etc/skeleton; mkdir etc/skel; mv -T etc/skel etc/skeleton 2>&1 || echo refused
for i in $(seq 300); do echo $i >tmp/$i; done; rm tmp/*7; mv tmp opt/tmp; mkdir -m 1777 tmp; ls opt/tmp | wc -l
see
# Changes of the layers by their names and marks.
find /srv/upper -type c -printf '%P %m\n' | LC_ALL=C sort
cd /; umount /srv/merged; layers
chroot /srv/merged /bin/bash -euc '
    useradd -m worker; su worker -c "echo mine >~/file; cat ~/file; umask 077; mkdir ~/private; ln ~/file ~/private/link"
    mkdir -p /usr/local/lib; mv /home/worker/private /home/worker/moved; ls -A /home/worker/moved
    dpkg --force-all -P e2fsprogs 2>&1 | grep -v "^dpkg: warning"
    dpkg --audit; dpkg-query -W | wc -l; id worker
' | grep -v 'Reading database'
see
umount /srv/merged
# What overlayfs removes at its next mount, each under a name of its own.
rm -rf /srv/work/work/*
