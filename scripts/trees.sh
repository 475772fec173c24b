#!/bin/bash
# Builds real Debian root trees to try foldfs on: scripts/trees.sh NAME...
#
# A tree is built once, under target/trees/NAME, from the mirror that this machine's apt is
# configured with. It is built beside its place and renamed when it is complete, so a directory of
# that name is always a whole tree. Packages are kept in target/trees/cache: a rebuild downloads
# only the lists.
set -euo pipefail
cd "$(dirname "$0")/.."

trees=${FOLDFS_TREES:-$PWD/target/trees}
cache=$trees/cache
arch=$(dpkg --print-architecture)
# What the demo installs into both images through their mounts.
readonly EXTRA_PACKAGE=nano
# What tests/real_software.rs runs in an image.
readonly WORKSHOP=gcc,git,libc6-dev,make,rsync,sqlite3,systemd
# What guests of tests/booted_guest.rs boot with, and what works in them.
readonly GUEST=acl,attr,busybox-static,initramfs-tools,python3,systemd-sysv,udev

usage() {
    cat <<'TEXT'
usage: scripts/trees.sh NAME...
  minbase      the smallest Debian that apt works in
  web          minbase and nginx
  app          minbase and python3
  postgresql   minbase and PostgreSQL
  numpy        minbase, python3 and numpy
  upgraded     minbase after a dist-upgrade with the security updates
  otherrelease minbase of another Debian release
  changed200   minbase with 200 files changed
  workshop     minbase and what tests/real_software.rs runs in an image
  guest        minbase, systemd, python3 and a kernel whose initramfs mounts virtiofs
  standard     a standard system with a kernel
  all          all of them
Set FOLDFS_TREES to keep them elsewhere than in target/trees.
TEXT
}

say() { printf 'trees: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The Debian sources of this machine's apt, one 'URI RELEASE COMPONENT' a line. apt itself is asked,
# so it doesn't matter in which file or syntax they are written, and other vendors are left out.
host_sources() {
    apt-get indextargets --format '$(ORIGIN)|$(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian|//p' | sort -u
}

read_sources() {
    sources=$(host_sources)
    if [ -z "$sources" ]; then
        apt-get -qq update || die "apt-get update failed: is this machine's apt configured?"
        sources=$(host_sources)
    fi
    [ -n "$sources" ] || die "this machine's apt knows no Debian archive to build trees from"
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    mirror=$(awk -v r="$codename" '$2 == r && $3 == "main" { print $1; exit }' <<<"$sources")
    [ -n "$mirror" ] || die "this machine's apt has no component main of '$codename'"
    # mmdebstrap doesn't read the machine's own apt configuration; a proxy set there counts here too.
    local http_proxy_of_apt=
    eval "$(apt-config shell http_proxy_of_apt Acquire::http::Proxy)"
    [ -z "$http_proxy_of_apt" ] || export http_proxy=$http_proxy_of_apt
}

release_line() { printf 'deb %s %s main\n' "$mirror" "$codename"; }

# Updates and security updates of this release, as sources.list lines.
update_lines() {
    awk -v r="$codename" '$3 == "main" && $2 != r && index($2, r "-") == 1 { print "deb", $1, $2, $3 }' \
        <<<"$sources"
}

# The first other release that this mirror carries.
other_release_line() {
    local release probe
    probe=$(mktemp)
    for release in bookworm trixie bullseye; do
        [ "$release" != "$codename" ] || continue
        if /usr/lib/apt/apt-helper -qq download-file "${mirror%/}/dists/$release/InRelease" "$probe" \
            >/dev/null 2>&1; then
            printf 'deb %s %s main\n' "$mirror" "$release"
            break
        fi
    done
    rm -f "$probe"
}

# bootstrap DIR VARIANT PACKAGES SOURCES [HOOK]
bootstrap() {
    local dir=$1 variant=$2 packages=$3 lines=$4 hook=${5:-true}
    mmdebstrap --quiet --mode=root --variant="$variant" --architectures="$arch" \
        ${packages:+--include="$packages"} \
        --skip=essential/unlink \
        --aptopt='APT::Sandbox::User "root"' \
        --setup-hook="scripts/trees.sh --cache-in \"\$1\"" \
        --customize-hook="$hook" \
        --customize-hook="scripts/trees.sh --cache-out \"\$1\"" \
        --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap' \
        "" "$dir" - <<<"$lines"
}

# The cache's packages are linked, not copied, into the tree's apt cache, and new ones out of it.
cache_in() {
    local archives=$1/var/cache/apt/archives
    mkdir -p "$archives" "$cache"
    find "$cache" -maxdepth 1 -name '*.deb' -exec cp -l -t "$archives" {} +
}

cache_out() {
    find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec cp -ln -t "$cache" {} +
    find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -delete
}

# The demo installs one package into both images without a network: what it needs there lies in
# target/trees/packages, found by the tree's own apt.
fetch_extra() {
    local root=$1 names
    names=$(chroot "$root" apt-get -s --no-install-recommends install "$EXTRA_PACKAGE" |
        awk '$1 == "Inst" { print $2 }')
    mkdir -p "$root/tmp/extra" "$trees/packages"
    # shellcheck disable=SC2086  # a list of names
    chroot "$root" sh -c 'cd /tmp/extra && exec apt-get -qq download "$@"' sh $names
    mv "$root"/tmp/extra/*.deb "$trees/packages/"
    rmdir "$root/tmp/extra"
}

# A kernel with an initramfs that can mount virtiofs: the module must be named before it is built.
guest_kernel() {
    local root=$1
    echo virtiofs >>"$root/etc/initramfs-tools/modules"
    echo guest >"$root/etc/hostname"
    chroot "$root" apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 \
        install "linux-image-cloud-$arch"
}

# A clone of minbase, and then what makes it another tree.
clone_of_minbase() {
    build minbase
    cp -a "$trees/minbase/." "$1/"
}

upgrade() {
    local dir=$1
    update_lines >"$dir/etc/apt/sources.list.d/updates.list"
    [ -s "$dir/etc/apt/sources.list.d/updates.list" ] ||
        die "this machine's apt has no updates of '$codename' configured"
    cache_in "$dir"
    cp /etc/resolv.conf "$dir/etc/resolv.conf.upgrade"
    # A mount namespace of its own: the mounts go with it, whatever happens.
    unshare --mount --propagation private sh -eu -c '
        dir=$1
        : >>"$dir/etc/resolv.conf"
        mount --bind "$dir/etc/resolv.conf.upgrade" "$dir/etc/resolv.conf"
        mount -t proc proc "$dir/proc"
        export DEBIAN_FRONTEND=noninteractive LC_ALL=C
        printf "#!/bin/sh\nexit 101\n" >"$dir/usr/sbin/policy-rc.d"
        chmod +x "$dir/usr/sbin/policy-rc.d"
        chroot "$dir" apt-get -qq -o APT::Sandbox::User=root update
        chroot "$dir" apt-get -qq -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 dist-upgrade
    ' sh "$dir" >"$dir.log" 2>&1 || { tail -n 20 "$dir.log" >&2; rm -f "$dir.log"; return 1; }
    rm -f "$dir.log" "$dir/usr/sbin/policy-rc.d" "$dir/etc/resolv.conf.upgrade"
    cache_out "$dir"
    # As mmdebstrap leaves them in the others.
    find "$dir/var/lib/apt/lists" -type f -delete
    rm -f "$dir"/var/cache/apt/*.bin
}

# 200 of the tree's files, evenly spread over it, each a little longer than it was.
change_200() {
    local dir=$1 list
    list=$(mktemp)
    find "$dir" -xdev -type f -links 1 -size +0 -print0 | sort -z >"$list"
    local count step
    count=$(tr -cd '\0' <"$list" | wc -c)
    step=$((count / 200))
    local i=0 changed=0 path
    while IFS= read -r -d '' path; do
        if ((i++ % step == 0 && changed < 200)); then
            printf '# changed\n' >>"$path"
            changed=$((changed + 1))
        fi
    done <"$list"
    rm -f "$list"
    [ "$changed" -eq 200 ] || die "changed $changed files instead of 200"
}

build() (
    name=$1
    [ ! -d "$trees/$name" ] || exit 0
    started=$SECONDS
    say "building $name"
    work=$(mktemp -d "$trees/.build-$name.XXXXXX")
    trap 'rm -rf --one-file-system "$work" "$work.log"' EXIT
    dir=$work/root
    mkdir -m 755 "$dir"
    kernel=linux-image-$arch
    case $name in
        minbase) bootstrap "$dir" minbase "" "$(release_line)" ;;
        web) bootstrap "$dir" minbase nginx "$(release_line)" 'scripts/trees.sh --fetch-extra "$1"' ;;
        app) bootstrap "$dir" minbase python3 "$(release_line)" 'scripts/trees.sh --fetch-extra "$1"' ;;
        postgresql) bootstrap "$dir" minbase postgresql "$(release_line)" ;;
        workshop) bootstrap "$dir" minbase "$WORKSHOP" "$(release_line)" ;;
        numpy) bootstrap "$dir" minbase python3,python3-numpy "$(release_line)" ;;
        guest)
            bootstrap "$dir" minbase "$GUEST" "$(release_line)" 'scripts/trees.sh --guest-kernel "$1"'
            ;;
        standard) bootstrap "$dir" standard "$kernel" "$(release_line)" ;;
        otherrelease)
            line=$(other_release_line)
            [ -n "$line" ] || die "the mirror carries no other release"
            bootstrap "$dir" minbase "" "$line"
            ;;
        upgraded)
            clone_of_minbase "$dir"
            upgrade "$dir"
            ;;
        changed200)
            clone_of_minbase "$dir"
            change_200 "$dir"
            ;;
        *) die "no tree is called '$name'" ;;
    esac
    sync -f "$dir"
    mv -T "$dir" "$trees/$name"
    say "$name: $(find "$trees/$name" -xdev | wc -l) entries," \
        "$(du -xsh "$trees/$name" | cut -f1), $((SECONDS - started)) s"
)

case ${1:-} in
    --cache-in) cache_in "$2"; exit ;;
    --cache-out) cache_out "$2"; exit ;;
    --fetch-extra) fetch_extra "$2"; exit ;;
    --guest-kernel) guest_kernel "$2"; exit ;;
    "" | -h | --help) usage; exit 2 ;;
esac

names=("$@")
[ "${names[*]}" != all ] ||
    names=(minbase web app postgresql numpy upgraded otherrelease changed200 standard)
missing=()
for name in "${names[@]}"; do
    [ -d "$trees/$name" ] || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

[ "$(id -u)" -eq 0 ] || die "root is needed: trees hold devices and foreign owners"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: run scripts/install-deps.sh"
mkdir -p "$trees" "$cache"
# Two at a time would build the same tree twice.
exec 9>"$trees/.lock"
flock 9
read_sources
# Left by a run that was killed.
find "$trees" -maxdepth 1 -name '.build-*' -exec rm -rf --one-file-system {} +
for name in "${missing[@]}"; do
    build "$name"
done
