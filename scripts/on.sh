#!/bin/bash
# Runs a command whose test stores lie on a file system of this type, made for it on a loop device.
#
#   scripts/on.sh xfs make soak
#   scripts/on.sh btrfs cargo nextest run --locked -E 'binary(mounted_model)'
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 TYPE COMMAND..." >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: root is needed to mount a $1" >&2; exit 1; }
type=$1
shift
cd "$(dirname "$0")/.."
mkdir -p target
place=$(mktemp -d "$PWD/target/on-$type.XXXXXX")
trap 'if mountpoint -q "$place/mounted"; then umount "$place/mounted" || umount -l "$place/mounted"; fi
    rm -rf --one-file-system "$place"' EXIT
mkdir "$place/mounted"
# Sparse: it takes the space that is used.
truncate -s 64G "$place/image"
"mkfs.$type" -q "$place/image"
mount -o loop "$place/image" "$place/mounted"
FOLDFS_TEST_DIR=$place/mounted "$@"
