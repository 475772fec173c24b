# repository.sh TREES DIRECTORY: two archives of real packages for apt. DIRECTORY/old has what the
# trees minbase and workshop consist of, DIRECTORY/new a later version of some of them, rebuilt with
# a file more, a file less, a changed one and changed configuration.
trees=$1 directory=$2
rebuilt='bash coreutils debconf dpkg libc6 libc-bin login ncurses-base passwd sed tar'
mkdir -p "$directory/old" "$directory/new"

# The packages that mmdebstrap downloaded.
for tree in minbase workshop; do
    dpkg-query --admindir="$trees/$tree/var/lib/dpkg" -W -f '${Package}_${Version}_${Architecture}.deb\n'
done | sort -u | sed 's/:/%3a/' | while read -r name; do
    ln -f "$trees/cache/$name" "$directory/old/" 2>/dev/null || cp "$trees/cache/$name" "$directory/old/"
done

for package in $rebuilt; do
    work=$directory/work
    dpkg-deb -R "$directory/old/${package}"_* "$work"
    sed -i '/^Version:/s/$/+workshop1/' "$work/DEBIAN/control"
    documents=$work/usr/share/doc/$package
    mkdir -p "$documents"
    [ -L "$documents" ] || echo "$package was rebuilt" >"$documents/NEWS.workshop"
    [ ! -f "$documents/copyright" ] || echo 'Rebuilt.' >>"$documents/copyright"
    rm -f "$documents"/changelog.Debian.gz
    if [ -f "$work/DEBIAN/conffiles" ]; then
        sed 's|^/||' "$work/DEBIAN/conffiles" | while read -r file; do
            [ ! -f "$work/$file" ] || echo '# of the new version' >>"$work/$file"
        done
    fi
    touch "$work/DEBIAN/conffiles"
    (cd "$work" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort |
        grep -vxFf <(sed 's|^/||' DEBIAN/conffiles) | xargs -d '\n' md5sum >DEBIAN/md5sums)
    dpkg-deb -Znone --root-owner-group -b "$work" "$directory/new/${package}_new.deb" >/dev/null
    rm -r "$work"
done

for archive in old new; do
    cd "$directory/$archive"
    for deb in *.deb; do
        dpkg-deb -f "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" \
            "$(sha256sum "$deb" | cut -d' ' -f1)"
    done >Packages
done
chmod -R u=rwX,go=rX "$directory"
