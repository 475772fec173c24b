#!/bin/bash
# Installs the Debian packages that foldfs needs, by name, and only those that are missing; for the
# tests, test suites by others too, as crates, into target/tools.
#
#   scripts/install-deps.sh [build] [test] [demo] [bench]     (default: all four)
#
# Of a package it counts that the program is there, not where it came from.
set -euo pipefail

# package:program that it brings
build="gcc:cc libc6-dev:/usr/include/stdio.h make:make"
test="acl:setfacl attr:getfattr e2fsprogs:mkfs.ext4 xfsprogs:mkfs.xfs
    btrfs-progs:mkfs.btrfs fuse3:fusermount3
    mount:losetup util-linux:flock tar:tar gzip:gzip xz-utils:xz zstd:zstd procps:ps python3:python3
    python3-prometheus-client:/usr/lib/python3/dist-packages/prometheus_client/openmetrics/parser.py
    rsync:rsync mmdebstrap:mmdebstrap sqlite3:sqlite3 perl:perl util-linux:setpriv util-linux:unshare"
demo="mmdebstrap:mmdebstrap jq:jq util-linux:unshare"
bench="mmdebstrap:mmdebstrap ostree:ostree python3:python3 jdupes:jdupes rdfind:rdfind
    fuse-overlayfs:fuse-overlayfs unionfs-fuse:unionfs e2fsprogs:mkfs.ext4 xfsprogs:mkfs.xfs mount:losetup
    util-linux:unshare tar:tar"

# crate@version of a program with the crate's name, as `--version` tells them
crates="fsx@0.3.2 pjdfstest@0.2.2"
tools=$(dirname "$0")/../target/tools

missing=() wanted_crates='' missing_crates=()
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
    case $group in test | all) wanted_crates=$crates ;; esac
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
[ ${#missing[@]} -gt 0 ] || {
    install_crates
    exit
}

command -v apt-get >/dev/null || {
    echo "install-deps: no apt-get here; please install: ${missing[*]}" >&2
    exit 1
}
[ "$(id -u)" -eq 0 ] || {
    echo "install-deps: root is needed to install: ${missing[*]}" >&2
    exit 1
}
echo "install-deps: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get -qq update &&
    apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install "${missing[@]}"; } \
    >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install-deps: apt-get failed to install ${missing[*]}" >&2
    exit 1
fi
install_crates
