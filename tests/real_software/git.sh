# git with some thousand files of the system itself: a history with branches, merges, renames and
# conflicts; clones of every kind, packs and checks.

# Times and names that make the same commits everywhere; one thread, which makes the same packs.
git config --global user.name Worker
git config --global user.email worker@example.org
git config --global init.defaultBranch main
git config --global pack.threads 1
# Thousands of small syncs say nothing more.
git config --global core.fsync committed,-loose-object
git config --global gc.auto 0
git config --global advice.detachedHead false
tick() { clock=$((${clock:-1700000000} + 60)); export GIT_AUTHOR_DATE="$clock +0000" GIT_COMMITTER_DATE="$clock +0000"; }

mkdir -p /srv/project; cd /srv/project; git init -q
cp -a /usr/include headers; cp -a /usr/share/perl perl; cp -a /etc/. settings
# git doesn't keep directories without files, and users' rights are not its matter.
find . -type l -delete; chmod -R u=rwX,go=rX .
tick; git add -A; git commit -qm 'everything'
for branch in one two three; do
    git checkout -qb $branch main
    for i in 1 2 3 4; do
        find headers -name '*.h' | sort | awk -v i=$i 'NR % 97 == i' | xargs sed -i "1i/* $branch */"
        printf '%s %s\n' $branch $i >>journal-$branch
        tick; git add -A; git commit -qm "$branch $i"
    done
done
git checkout -q main
git mv perl library; git mv headers/linux linux; tick; git commit -qm 'moved'
for branch in one two three; do
    tick; git merge -q --no-edit -X ours $branch; git tag -a v-$branch -m $branch
done
git rm -qr linux/netfilter; tick; git commit -qm 'removed'
git stash list; echo more >>journal-one; tick; git stash -q; git stash apply -q; git checkout -q -- journal-one
git checkout -qb rebased one~3; echo x >rebased; git add rebased; tick; git commit -qm rebased
tick; git rebase -q main; git checkout -q main
git log --all --format='%H %s' | sha256sum
git status --short | wc -l; git diff-files | wc -l
# A clone next to it has hard links to the objects, one over a file URL has a pack.
git clone -q /srv/project /srv/linked; git clone -q --no-local file:///srv/project /srv/packed
git clone -q --bare --mirror /srv/project /srv/mirror.git; git clone -q --depth 3 file:///srv/project /srv/shallow
git -C /srv/project fsck --full --strict; git -C /srv/packed fsck --full --strict
cd /srv/linked; git checkout -q -b work; echo line >>journal-two; git add -u; tick; git commit -qm linked
git push -q origin work; git -C /srv/mirror.git fetch -q
git worktree add -q ../beside v-two; git -C ../beside log -1 --format=%H
git -C /srv/project gc -q --prune=now; git -C /srv/project repack -qadf --depth=20
git -C /srv/linked gc -q; git -C /srv/mirror.git pack-refs --all
for repository in project linked packed mirror.git beside shallow; do
    git -C /srv/$repository fsck --full --strict --no-dangling
    git -C /srv/$repository count-objects -v | grep -v size
    git -C /srv/$repository log --all --format='%H %T' | sha256sum
done
git -C /srv/project bundle create -q /srv/all.bundle --all; git -C /srv/project bundle verify -q /srv/all.bundle 2>&1
git -C /srv/project archive v-two | sha256sum
git -C /srv/project grep -c define | awk -F: '{ s += $2 } END { print s }'
git -C /srv/packed bisect start HEAD v-one >/dev/null; git -C /srv/packed bisect reset 2>&1
cd /srv/packed; git checkout -q v-one; git checkout -q main; git clean -fdxq; git status --short
