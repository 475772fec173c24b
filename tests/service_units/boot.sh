# The first process of a host of its own, in namespaces: it has a Debian tree below a layer that goes with it, a /dev with
# what FUSE needs, and control groups, and becomes systemd. Arguments: the tree, a directory for all that is needed here,
# one that the host has as /store, and where it is to find it.
set -euo pipefail
tree=$1 place=$2 store=$3

mount --make-rprivate /
mount -t tmpfs -o mode=755 layer "$place"
mkdir "$place"/{upper,work,root}
root=$place/root
mount -t overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty fuse; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir -p "$root/var/lib/foldfs" "$root/old"
mount --bind "$store" "$root/var/lib/foldfs"
make --silent --directory="$PROJECT" install DESTDIR="$root" PREFIX=/usr PROGRAM="$PROGRAM" \
    VIRTIOFSD=/usr/libexec/virtiofsd
install -D "$VIRTIOFSD" "$root/usr/libexec/virtiofsd"
for line in "${FSTAB:-}"; do echo "$line"; done >>"$root/etc/fstab"
# Nothing of these tests needs devices or a network.
systemctl --quiet --root="$root" mask systemd-udevd systemd-networkd systemd-timesyncd systemd-resolved
mkdir -p "$root/srv/two"

cd "$root"
pivot_root . old
umount -l /old
export container=foldfs
exec /lib/systemd/systemd --log-target=console </dev/null
