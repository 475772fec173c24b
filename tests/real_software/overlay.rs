//! Kernel overlayfs whose upper and work directories lie in an image.

use crate::workshop::{Workshop, debian_tree};

/// The overlay mounted once more, and a container in it.
const AGAIN: &str = r#"
    mount -t overlay overlay -o lowerdir=/mnt,upperdir=/srv/upper,workdir=/srv/work,redirect_dir=on,uuid=null /srv/merged
    cd /srv/merged
    find . -xdev -printf '%P %y %m %U:%G %l\n' | LC_ALL=C sort | sha256sum
    find . -xdev -type f -printf '%P %s %n %T@\n' | grep -v '^home\|^var/log\|^etc' | cut -d. -f1 | LC_ALL=C sort | wc -l
    find . -xdev -path ./var/log -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
    ls usr/share/doc var/cache opt/methods usr/lib/apt etc/skeleton
    chroot . /bin/bash -euc 'id worker; rm -r /home/worker/moved; echo once more >/home/worker/again; dpkg --audit'
    ls -A home/worker
    umount -l /srv/merged
"#;

#[test]
fn containers_have_their_layers_in_an_image() {
    let test = "containers_have_their_layers_in_an_image";
    let Some(lower) = debian_tree(test, "minbase") else {
        return;
    };
    let Some(mut workshop) = Workshop::open(test, "minbase") else {
        return;
    };
    workshop.shared = Some(lower);
    workshop.both(include_str!("overlay.sh"));
    // Whiteouts, opaque directories and redirects are compared here: they are devices and xattrs.
    let shown = workshop.assert_alike(&[
        "srv/upper/var/log",
        "srv/upper/etc/shadow",
        "srv/upper/etc/shadow-",
    ]);
    workshop.finish(&shown, AGAIN);
}
