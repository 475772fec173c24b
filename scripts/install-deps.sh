#!/bin/bash
# Installs the Debian packages that foldfs needs, by name, and only those that are missing; for the
# tests, programs by others too, as crates, into target/tools, and QEMU, which is unpacked there.
#
#   scripts/install-deps.sh [build] [test] [demo] [bench]     (default: all four)
#
# Of a package it counts that the program is there, not where it came from.
set -euo pipefail

# package:program that it brings
build="gcc:cc libc6-dev:/usr/include/stdio.h make:make"
virtiofsd="libcap-ng-dev:/usr/include/cap-ng.h libseccomp-dev:/usr/include/seccomp.h"
test="acl:setfacl attr:getfattr e2fsprogs:mkfs.ext4 xfsprogs:mkfs.xfs
    btrfs-progs:mkfs.btrfs fuse3:fusermount3
    mount:losetup util-linux:flock tar:tar gzip:gzip xz-utils:xz zstd:zstd procps:ps python3:python3
    python3-prometheus-client:/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py
    rsync:rsync mmdebstrap:mmdebstrap sqlite3:sqlite3 perl:perl util-linux:setpriv util-linux:unshare
    systemd:systemd-analyze openssh-client:ssh-keygen $virtiofsd"
demo="mmdebstrap:mmdebstrap jq:jq util-linux:unshare"
bench="$virtiofsd mmdebstrap:mmdebstrap ostree:ostree python3:python3 jdupes:jdupes rdfind:rdfind
    fuse-overlayfs:fuse-overlayfs unionfs-fuse:unionfs e2fsprogs:mkfs.ext4 xfsprogs:mkfs.xfs mount:losetup
    util-linux:unshare tar:tar"

# crate@version of a program with the crate's name, as `--version` tells them
suites="fsx@0.3.2 pjdfstest@0.2.2"
guests="virtiofsd@1.14.0"
tools=$(dirname "$0")/../target/tools
qemu='qemu-system-x86_64'

missing=() wanted_crates='' missing_crates=() missing_qemu=''
for group in "${@:-all}"; do
    case $group in
        build) wanted=$build ;;
        test) wanted=$test ;;
        demo) wanted=$demo ;;
        bench) wanted=$bench ;;
        all) wanted="$build $test $demo $bench" ;;
        *)
            echo "install-deps: no group '$group'; there are: build test demo bench" >&2
            exit 2
            ;;
    esac
    for pair in $wanted; do
        package=${pair%%:*} program=${pair#*:}
        # An absolute name is a file. Daemons' tools may lie outside of a user's PATH.
        if [[ $program == /* ]]; then
            [ -e "$program" ] && continue
        elif PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null; then
            continue
        fi
        [[ " ${missing[*]} " == *" $package "* ]] || missing+=("$package")
    done
    case $group in
        test | bench | all)
            wanted_crates="$wanted_crates $guests"
            [ "$group" = bench ] || wanted_crates="$wanted_crates $suites"
            PATH=$tools/bin:$PATH command -v $qemu >/dev/null || missing_qemu=yes
            ;;
    esac
done
for crate in $wanted_crates; do
    found=$("$tools/bin/${crate%@*}" --version 2>/dev/null || true)
    [ "$found" = "${crate/@/ }" ] || missing_crates+=("$crate")
done

install_crates() {
    [ ${#missing_crates[@]} -gt 0 ] || return 0
    echo "install-deps: installing ${missing_crates[*]} into target/tools" >&2
    "${CARGO:-cargo}" install --quiet --locked --root "$tools" "${missing_crates[@]}"
}

# QEMU and what it needs that is not installed, unpacked, with a script that starts it. To install it would fail
# where qemu-utils of another release is installed; so all of QEMU counts as not installed.
unpack_qemu() {
    local work=$log.qemu package libraries
    mkdir -p "$work/archives/partial" "$work/root" "$tools/bin"
    awk 'BEGIN { RS = ""; ORS = "\n\n" } !/^Package: qemu-/' /var/lib/dpkg/status >"$work/status"
    apt-get -q -y --no-install-recommends --download-only -o Debug::NoLocking=1 \
        -o Dir::State::status="$work/status" -o Dir::Cache::archives="$work/archives" \
        install qemu-system-x86 || return
    for package in "$work"/archives/*.deb; do
        dpkg -x "$package" "$work/root" || return
    done
    rm -rf --one-file-system "$tools/qemu"
    mv "$work/root" "$tools/qemu"
    libraries=$(gcc -print-multiarch)
    cat >"$tools/bin/$qemu" <<TEXT
#!/bin/sh
prefix=\$(realpath "\$0")
prefix=\${prefix%/bin/*}/qemu
export LD_LIBRARY_PATH="\$prefix/usr/lib/$libraries:\$prefix/lib/$libraries"
export QEMU_MODULE_DIR="\$prefix/usr/lib/$libraries/qemu"
exec "\$prefix/usr/bin/$qemu" -L "\$prefix/usr/share/qemu" -L "\$prefix/usr/share/seabios" "\$@"
TEXT
    chmod +x "$tools/bin/$qemu"
}

needed="${missing[*]}${missing_qemu:+ qemu-system-x86}"
[ -n "$needed" ] || {
    install_crates
    exit
}

command -v apt-get >/dev/null || {
    echo "install-deps: no apt-get here; please install: $needed" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || {
    echo "install-deps: root is needed to install: $needed" >&2
    exit 1
}
echo "install-deps: installing $needed" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -rf "$log" "$log.qemu"' EXIT
install_packages() {
    [ ${#missing[@]} -eq 0 ] ||
        apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "${missing[@]}"
}
if ! { apt-get -qq update && install_packages &&
    { [ -z "$missing_qemu" ] || unpack_qemu; }; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install-deps: apt-get failed to install $needed" >&2
    exit 1
fi
install_crates
