#!/bin/bash
# Two real Debian images, one store, one mount: what foldfs does, each claim checked.
#
# Run it as `make demo`, as root. It ends with a status other than zero as soon as a claim is wrong.
# The trees are kept under target/trees, the store it leaves to look at under target/demo.
set -euo pipefail
cd "$(dirname "$0")/.."

built=${CARGO_TARGET_DIR:-target}/release
trees=${FOLDFS_TREES:-$PWD/target/trees}
work=$PWD/target/demo
store=$work/store
mounts=$work/mounts
export FOLDFS_STORE=$store
export LC_ALL=C
unset "${!DPKG_@}"

# What this machine's foldfs is configured to do must not change what is shown here.
foldfs() { "$built/foldfs" --config "$work/config.toml" "$@"; }
snapshot() { "$built/examples/snapshot" "$@"; }
alike() { snapshot compare "$@" | sed 's/^/       /'; }

# ---- saying and checking ----

steps=() times=() step_started=
now() { local t=$EPOCHREALTIME; echo "${t/./}"; }

step() {
    end_step
    steps+=("$1")
    step_started=$(now)
    printf '\n== %s\n' "$1"
}

end_step() {
    [ -z "$step_started" ] || times+=($(($(now) - step_started)))
    step_started=
}

# claim WHAT COMMAND...: the command is the proof of it.
claim() {
    local what=$1
    shift
    if "$@"; then
        printf '   ok: %s\n' "$what"
    else
        printf '\nWRONG: %s\n       (%s)\n' "$what" "$*" >&2
        exit 1
    fi
}

shown() {
    printf '   $ foldfs %s\n' "$*"
    foldfs "$@" | sed 's/^/     /'
}

is() { [ "$1" = "$2" ] || { echo "   '$1' is not '$2'" >&2; false; }; }
at_least() { [ "$1" -ge "$2" ] || { echo "   $1 is less than $2" >&2; false; }; }
below() { [ "$1" -lt "$2" ] || { echo "   $1 is not below $2" >&2; false; }; }
within_percent() { # A B PERCENT
    local difference=$(($1 - $2))
    at_least $((${2} * $3)) $((${difference#-} * 100))
}

# ---- looking ----

status_of() { foldfs --json status | jq -er ".$1"; }
# The sum over the images that a user made; the family's base is not one of them.
images_of() { status_of "images | map(select(.role == \"guest\").$1) | add"; }
family_of() { foldfs --json list | jq -er --arg image "$1" '.images[] | select(.name == $image).family'; }
# Which layer serves this path of this image?
why_of() { foldfs --json why "$1" "$2" | jq -er ".$3"; }
layer_of() { why_of "$1" "$2" layer; }
digest_of() { sha256sum "$1" | cut -d' ' -f1; }
object_of() { echo "$store/objects/${1:0:2}/${1:2}"; }
# Everything of a host file that an alteration would show in.
identity_of() { stat -c '%i %s %a %u %g %h %.9Y %.9Z' "$1" && digest_of "$1"; }
mounts_left() { awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts; }
# Processes that hold the store's lock.
holders() {
    [ -e "$store/run/lock" ] || return 0
    awk -v inode=":$(stat -c %i "$store/run/lock")" \
        '$2 != "->" && substr($6, length($6) - length(inode) + 1) == inode { print $5 }' /proc/locks
}

# ---- nothing is left behind, whatever happens ----

cleanup() {
    local result=$? pid
    trap - EXIT
    if [ -n "${HOLD_PID:-}" ]; then kill "$HOLD_PID" 2>/dev/null || :; fi
    if [ -n "$(mounts_left)" ]; then
        timeout 20 "$built/foldfs" --config "$work/config.toml" unmount "$mounts" >/dev/null 2>&1 || :
        mounts_left | sort -r | while read -r mount; do umount -l "$mount" || :; done
    fi
    for pid in $(holders); do
        [ "$pid" -le 1 ] || kill "$pid" 2>/dev/null || :
    done
    exit "$result"
}
# Bash runs it when a signal ends the script, too.
trap cleanup EXIT

[ "$(id -u)" -eq 0 ] || { echo "demo: root is needed: it builds and mounts root trees" >&2; exit 1; }
[ -c /dev/fuse ] || { echo "demo: no /dev/fuse here" >&2; exit 1; }
for mount in $(mounts_left | sort -r); do umount -l "$mount"; done
rm -rf --one-file-system "$work"
mkdir -p "$work" "$mounts"
: >"$work/config.toml"

# ---- the demo ----

step "Two real Debian root trees"
FOLDFS_TREES=$trees scripts/trees.sh web app
for tree in web app; do
    claim "$tree is a Debian tree of $(find "$trees/$tree" -xdev | wc -l) paths, devices included" \
        test -c "$trees/$tree/dev/null" -a -s "$trees/$tree/etc/debian_version"
done
snapshot record "$trees/web" >"$work/source-web"
snapshot record "$trees/app" >"$work/source-app"

step "A store"
shown init
claim "only root may look into it" is "$(stat -c '%a %u' "$store")" "700 0"

step "Import web"
shown import web "$trees/web"
claim "it founded a family" test -n "$(family_of web)"

step "Import app"
shown import app "$trees/app" | tee "$work/import-app"
claim "it joined the family of web by itself" is "$(family_of app)" "$(family_of web)"
claim "it says which family, and why" \
    grep -q "app joined family $(family_of web): ." "$work/import-app"

step "What is shared and what is private"
shown list
shown status
shown why web /usr/bin/bash
shown why web /usr/sbin/nginx
claim "what both have lies in the shared layer" is "$(layer_of web /usr/bin/bash)" shared
claim "more is shared than private" below "$(images_of private_bytes)" "$(images_of shared_bytes)"
claim "much less is stored than there is" below "$(status_of stored_bytes)" "$(($(images_of logical_bytes) * 2 / 3))"
claim "'stored' is what du says" \
    within_percent "$(status_of stored_bytes)" "$(du -s --block-size=1 "$store" | cut -f1)" 1

step "Mount both"
shown mount "$mounts" -o suid,dev,allow_other
for image in web app; do
    claim "$image is mounted" mountpoint -q "$mounts/$image"
    snapshot record "$mounts/$image" >"$work/view-$image"
    # Numbers are the store's, ctime can't be given by anybody, and the size of a directory says
    # how its file system stores it.
    claim "its view equals the tree it came from, all else of metadata and content included" \
        alike "$work/source-$image" "$work/view-$image" --except ino,ctime,dirsize
done

step "Real programs inside"
claim "nginx accepts its configuration" chroot "$mounts/web" nginx -q -t
claim "python3 works with its modules" chroot "$mounts/app" python3 -c \
    'import ssl, sqlite3, json, zlib; print("   ", json.dumps({"sqlite": sqlite3.sqlite_version}))'
for image in web app; do
    claim "dpkg --verify finds every file of $image's packages as it should be" \
        is "$(chroot "$mounts/$image" dpkg --verify 2>&1)" ""
done

step "Modify a shared file in one image"
file=/usr/share/common-licenses/GPL-3
claim "$file is shared" is "$(layer_of web $file) $(layer_of app $file)" "shared shared"
object=$(object_of "$(digest_of "$mounts/app$file")")
object_before=$(identity_of "$object")
app_before=$(identity_of "$mounts/app$file")
number_before=$(stat -c %i "$mounts/web$file")
echo "This line is web's own." >>"$mounts/web$file"
claim "web has the line" is "$(tail -n 1 "$mounts/web$file")" "This line is web's own."
claim "the file kept its inode number" is "$(stat -c %i "$mounts/web$file")" "$number_before"
claim "app's file is untouched, times included" is "$(identity_of "$mounts/app$file")" "$app_before"
claim "the object is untouched" is "$(identity_of "$object")" "$object_before"
claim "now it is private to web" is "$(layer_of web $file) $(layer_of app $file)" "private shared"

step "Install the same package into both"
stored_before=$(status_of stored_bytes)
for image in web app; do
    cp "$trees"/packages/*.deb "$mounts/$image/var/cache/apt/archives/"
    chroot "$mounts/$image" sh -c \
        'DEBIAN_FRONTEND=noninteractive dpkg -i --skip-same-version /var/cache/apt/archives/*.deb' \
        >"$work/dpkg-$image.log" 2>&1 || { cat "$work/dpkg-$image.log" >&2; exit 1; }
    claim "nano runs in $image: $(chroot "$mounts/$image" nano --version | head -n 1)" \
        is "$(chroot "$mounts/$image" dpkg --verify nano)" ""
    head -c 1048576 /dev/zero | tr '\0' 'x' >"$mounts/$image/srv/open-for-writing"
done
sync -f "$store"
stored_installed=$(status_of stored_bytes)
nano_size=$(stat -c %s "$mounts/web/usr/bin/nano")
for image in web app; do
    claim "nano is private in $image, as a file of its own" \
        is "$(why_of $image /usr/bin/nano role)" file
done
claim "the store holds it twice" at_least "$stored_installed" $((stored_before + 2 * nano_size))
digest=$(digest_of "$mounts/web/usr/bin/nano")
object=$(object_of "$digest")
claim "it is no object yet" test ! -e "$object"

step "Fold, while both are mounted and in use"
for image in web app; do snapshot record "$mounts/$image" >"$work/before-$image"; done
# A coprocess that keeps files open and mapped: two that will be folded, two shared ones, and one
# that is open for writing.
coproc HOLD {
    exec "$built/examples/snapshot" hold "$mounts"/{web,app}/usr/bin/nano \
        "$mounts/app$file" "$mounts/web/usr/bin/bash" --writing "$mounts/web/srv/open-for-writing"
}
ask() { # QUESTION -> the answer
    local answer
    [ -z "$1" ] || echo "$1" >&"${HOLD[1]}"
    read -r -t 60 answer <&"${HOLD[0]}" && echo "$answer"
}
claim "descriptors and mappings are held" is "$(ask "")" "holding 5 files"
shown fold
claim "every descriptor and mapping is as it was" is "$(ask check)" well
for image in web app; do
    snapshot record "$mounts/$image" >"$work/after-$image"
    claim "nothing in $image looks different: numbers, links, ctimes, times of directories" \
        alike "$work/before-$image" "$work/after-$image"
done
claim "nano's content is stored once" is "$(stat -c '%h %a %u' "$object")" "1 400 0"
claim "and nowhere else" is "$(find "$store/images" -type f -size "${nano_size}c" -printf '%b\n' \
    | awk '{ s += $1 } END { print s + 0 }')" 0
shown why web /usr/bin/nano
for image in web app; do
    claim "$image's nano is that object" is "$(why_of $image /usr/bin/nano digest)" "$digest"
done
claim "the file that is open for writing was left alone" \
    is "$(why_of web /srv/open-for-writing role)" file
claim "the store is smaller by at least one of them" \
    below "$(status_of stored_bytes)" $((stored_installed - nano_size + 1))
app_before=$(identity_of "$mounts/app/srv/open-for-writing")
claim "the file that is open for writing can be written, by descriptor and mapping" is "$(ask write)" well
claim "and app's equal one doesn't notice" \
    is "$(identity_of "$mounts/app/srv/open-for-writing")" "$app_before"
hold_pid=$HOLD_PID
eval "exec ${HOLD[1]}>&-"
claim "all was well to the end" wait "$hold_pid"
HOLD_PID=

step "Unmount, and mount again"
for image in web app; do snapshot record "$mounts/$image" >"$work/before-$image"; done
shown unmount "$mounts"
claim "no mount is left" is "$(mounts_left)" ""
for _ in {1..50}; do [ -n "$(holders)" ] || break; sleep 0.1; done
claim "the daemon has ended" is "$(holders)" ""
shown mount "$mounts" -o suid,dev,allow_other
for image in web app; do
    snapshot record "$mounts/$image" >"$work/after-$image"
    claim "nothing in $image looks different after it either" \
        alike "$work/before-$image" "$work/after-$image"
done
shown unmount "$mounts"
claim "no mount is left" is "$(mounts_left)" ""

step "Check the store"
shown check --content
logical=$(images_of logical_bytes) stored=$(status_of stored_bytes)
claim "'stored' is what du says" \
    within_percent "$stored" "$(du -s --block-size=1 "$store" | cut -f1)" 1
end_step

# ---- the table ----

mib() { awk -v b="$1" 'BEGIN { printf "%.1f MiB", b / 1048576 }'; }
printf '\n%-46s %12s\n' "" ""
printf '%-46s %12s\n' "logical bytes of both images" "$(mib "$logical")"
printf '%-46s %12s\n' "stored bytes" "$(mib "$stored")"
printf '%-46s %12s\n' "saved" "$(awk -v l="$logical" -v s="$stored" 'BEGIN { printf "%.0f %%", 100 * (l - s) / l }')"
printf '%-46s %12s\n' "----------------------------------------------" "------------"
total=0
for i in "${!steps[@]}"; do
    printf '%-46s %10s s\n' "${steps[i]}" "$(awk -v t="${times[i]}" 'BEGIN { printf "%.1f", t / 1e6 }')"
    total=$((total + times[i]))
done
printf '%-46s %10s s\n' "all of it" "$(awk -v t="$total" 'BEGIN { printf "%.1f", t / 1e6 }')"
printf '\nEvery claim held. The store is %s\n' "$store"
