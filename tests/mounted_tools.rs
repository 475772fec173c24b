//! Needs root and FUSE. Real tools at work in a mounted image and, to compare, in a plain `cp -a`
//! of it; mounts, their daemon and its end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should panic"
)]

mod common;

#[path = "mounted_tools/behaviour.rs"]
mod behaviour;
#[path = "mounted_tools/daemon.rs"]
mod daemon;
#[path = "mounted_tools/holds.rs"]
mod holds;
#[path = "mounted_tools/log.rs"]
mod log;
#[path = "mounted_tools/metrics.rs"]
mod metrics;
#[path = "mounted_tools/passes.rs"]
mod passes;
#[path = "mounted_tools/programs.rs"]
mod programs;
#[path = "mounted_tools/xfs.rs"]
mod xfs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::assert_same_text;
use common::sample;
use common::snapshot::{Fields, Snapshot};
use common::store::{Mounted, Ran, TestStore, run};

/// A store whose family has the images `first` and `second`, made of the same tree.
fn twins(test: &str) -> Option<TestStore> {
    if !common::can_run(test, common::needs_fuse()) {
        return None;
    }
    let store = TestStore::new();
    let tree = store.sample(0);
    store.import("first", &tree, "family");
    store.import("second", &tree, "family");
    Some(store)
}

/// Runs a shell script in a directory.
fn script(directory: &Path, text: &str) -> Ran {
    let mut command = Command::new("bash");
    command.env("LC_ALL", "C").env("HOME", "/nonexistent");
    run(command.args(["-euc", text]).current_dir(directory), b"")
}

/// Runs a script in an image and in a plain copy; the tool must say the same and leave the same
/// tree. Then nothing may change over a fold and a remount, and the twin image must not have
/// changed at all.
fn same_as_plain(test: &str, text: &str) {
    let Some(store) = twins(test) else { return };
    let since = SystemTime::now() - Duration::from_secs(1);
    let plain: PathBuf = store.place.join("plain");
    sample::copy(&store.sample(0), &plain);
    let first = store.mount("first");
    let second = store.mount("second");
    let twin = second.snapshot();

    let expected = script(&plain, text);
    let found = script(&first.path, text);
    assert_eq!(
        expected.code, 0,
        "the script itself fails:\n{}",
        expected.stderr
    );
    assert_same_text(&expected.text(), &found.text(), "standard output");
    assert_same_text(&expected.stderr, &found.stderr, "standard error");
    assert_eq!(found.code, 0, "{text}");
    let shown = first.snapshot();
    let expected = Snapshot::of(&plain).with_recent_alike(since);
    expected.assert_same(&shown.clone().with_recent_alike(since), Fields::COPY, text);

    store.ok(&["fold"]);
    shown.assert_same(&first.snapshot(), Fields::ALL, "a fold shows");
    first.unmount();
    let first = store.mount("first");
    shown.assert_same(&first.snapshot(), Fields::ALL, "a remount shows");
    twin.assert_same(&second.snapshot(), Fields::ALL, "the twin changed");
    finish(&store, [first, second]);
}

/// Waits until a condition holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Unmounts, and has the store checked.
fn finish(store: &TestStore, mounts: impl IntoIterator<Item = Mounted>) {
    mounts.into_iter().for_each(Mounted::unmount);
    store.wait_for_daemons();
    store.assert_sound();
}

fn installed(program: &str) -> bool {
    let missing = (!common::installed(program)).then_some("it is not installed");
    common::can_run(program, missing)
}

#[test]
fn copies_by_cp() {
    same_as_plain(
        "copies_by_cp",
        "cp -a . ../cp-$$; cp -a ../cp-$$ again; rm -rf ../cp-$$; cp -r usr/bin etc/bin; \
         cp --sparse=always usr/sparse sparse; cp etc/hosts usr/bin/tool; cp -l usr/sparse linked",
    );
}

#[test]
fn copies_by_rsync() {
    if installed("rsync") {
        same_as_plain(
            "copies_by_rsync",
            "rsync -aHAX ./ ../rs-$$/; rsync -aHAX ../rs-$$/usr ./etc/; rm -rf ../rs-$$; \
             rsync -aHAX --inplace --no-whole-file etc/usr/bin/tool usr/bin/other; rsync -an --delete usr/ etc/usr/",
        );
    }
}

#[test]
fn archives_by_tar() {
    same_as_plain(
        "archives_by_tar",
        "tar --xattrs --acls -cf etc/x.tar --exclude=x.tar --exclude=socket --sort=name . ; mkdir out; \
         tar --xattrs --acls -xpf etc/x.tar -C out; rm etc/x.tar; tar --sort=name -cf - usr | tar -tvf - | sort; \
         tar --sort=name -C out -cf - usr | tar -xpf - --overwrite",
    );
}

#[test]
fn searches_by_find() {
    same_as_plain(
        "searches_by_find",
        r"find . -printf '%P %y %m %U:%G %n %l %T@\n' | LC_ALL=C sort; find . -type f -size +1k | sort; \
          find . -samefile usr/bin/tool | sort; find . -empty | sort; find . -perm -4000 | sort; \
          find usr -newer etc/hosts | sort; find . -name '*.conf' -exec grep -H = {} + | sort",
    );
}

#[test]
fn links_and_moves() {
    same_as_plain(
        "links_and_moves",
        "ln usr/bin/other etc/other; ln -s ../etc usr/etc; mv etc/conf.d usr/lib/conf; mv usr/lib/deep .; \
         mv usr/bin/tool var/; mv -T deep/deeper etc/deeper; ln -f etc/hosts usr/bin/other; mv etc/tool etc/hosts; \
         cat usr/etc/hosts | wc -c; mv usr/lib/conf etc/conf.d; mkdir usr/lib/conf; echo new > usr/lib/conf/file; \
         stat -c '%h %n' var/tool etc/hosts usr/bin/tool2 etc/other",
    );
}

#[test]
fn removes_and_makes_again() {
    same_as_plain(
        "removes_and_makes_again",
        "rm -rf etc; mkdir etc; echo one > etc/one; rm -rf usr/lib; mkdir -p usr/lib/deep; ls -A usr/lib/deep; \
         rm usr/bin/tool; echo other > usr/bin/tool; rm -r empty; ln -s usr empty; rmdir var/log; rm -rf var/*; ls -lA var",
    );
}

#[test]
fn edits_in_place() {
    same_as_plain(
        "edits_in_place",
        "sed -i s/local/global/ etc/hosts; sed -i s/1/3/ etc/conf.d/a.conf; cat usr/lib/a.conf; \
         dd if=/dev/zero of=usr/bin/tool bs=100 count=3 seek=5 conv=notrunc status=none; md5sum etc/tool usr/bin/tool2; \
         dd if=usr/bin/other of=usr/sparse bs=1000 seek=300 conv=notrunc status=none; truncate -s 300000 usr/sparse; \
         echo more >> etc/conf.d/b.conf; : > usr/lib/deep/deeper/data; touch -d 2001-01-01T01:01:01.5 'empty file'; \
         fallocate -l 20000 fresh; fallocate -p -o 4096 -l 8192 usr/bin/other; printf x | tee -a etc/hosts | wc -c",
    );
}

#[test]
fn owners_modes_and_attributes() {
    same_as_plain(
        "owners_modes_and_attributes",
        "chown -hR 7:8 etc; chmod -R g+w usr/bin; chmod 2755 usr/lib; mkdir usr/lib/new; touch usr/lib/new/file; \
         setfacl -m u:5:rwx,g:6:r etc/hosts; setfacl -d -m u:5:rx var; mkdir -p var/a/b; touch var/a/file; \
         setfacl -b etc/conf.d/b.conf; setfacl -k usr/lib; mkdir usr/lib/plain; chmod 640 etc/hosts; \
         setfattr -n user.one -v 1 usr/bin/tool; setfattr -x user.note etc/hosts; setfattr -hn trusted.l -v 2 usr/dangling; \
         getfacl -R var etc/hosts; getfattr -hRdm - -e hex . | sort; chmod 6755 usr/bin/other; chown 3:4 usr/bin/other; \
         stat -c %a usr/bin/other usr/lib/new",
    );
}

#[test]
fn a_database_by_sqlite() {
    if installed("sqlite3") {
        same_as_plain(
            "a_database_by_sqlite",
            "sqlite3 var/db 'pragma journal_mode=wal; create table t(a, b); begin; \
               with recursive n(i) as (select 1 union all select i+1 from n where i<2000) insert into t select i, hex(i*i) from n; commit;'; \
             sqlite3 var/db 'update t set b = 5 where a % 7 = 0; select count(*), sum(a) from t; pragma integrity_check; vacuum;'; \
             sqlite3 var/db 'pragma journal_mode=delete; select count(*) from t;'; \
             sqlite3 var/db .dump | md5sum; rm var/db",
        );
    }
}

#[test]
fn a_program_by_gcc() {
    if installed("gcc") {
        same_as_plain(
            "a_program_by_gcc",
            "printf '#include <stdio.h>\\nint main(){puts(\"built\");return 0;}\\n' > usr/bin/x.c; \
             gcc -O1 -o usr/bin/x usr/bin/x.c; ./usr/bin/x; cp usr/bin/x usr/bin/other; ./usr/bin/other; rm usr/bin/x usr/bin/other",
        );
    }
}

#[test]
fn many_files() {
    same_as_plain(
        "many_files",
        "mkdir many; cd many; for i in $(seq 1500); do echo $i > file-$i; done; ls | wc -l; ls -U | sort | md5sum; \
         rm *7; find . -name '*3' -delete; ls | wc -l; cat file-1* | md5sum; cd ..; mv many usr/lib/many; \
         cp -a usr/lib/many second; rm -rf usr/lib/many; ls second | wc -l; for i in second/*0; do mv $i $i.moved; done",
    );
}

#[test]
fn paths_longer_than_path_max() {
    same_as_plain(
        "paths_longer_than_path_max",
        r#"perl -e 'my $n = "d" x 250; for (1..20) { mkdir $n or die $!; chdir $n or die $!; } open F, ">", "end" or die; print F "deep"; close F;'
           find . -name end -printf '%d\n'; mv etc/conf.d "$(printf 'd%.0s' $(seq 250))/conf.d"; find . | wc -c
           perl -e 'my $p = "./" x 2040 . "etc/hosts"; open F, "<", $p or die $!; print scalar <F>;'"#,
    );
}

#[test]
fn a_directory_read_in_pieces() {
    same_as_plain(
        "a_directory_read_in_pieces",
        r#"mkdir d; for i in $(seq 700); do : > d/$i; done
           perl -e 'opendir D, "d"; my %seen; my @at; for (1..300) { push @at, telldir D; my $n = readdir D; $seen{$n}++; }
             seekdir D, $at[150]; my $again = readdir D; rewinddir D; my $all = () = readdir D; print "$all ", scalar(keys %seen), "\n";
             rewinddir D; for (1..151) { $name = readdir D } print $again eq $name ? "same\n" : "other $again $name\n";
             rewinddir D; my $removed = 0; while (my $n = readdir D) { next if $n =~ /^\./; unlink "d/$n" and $removed++; } print "$removed\n";'
           ls -A d; rmdir d"#,
    );
}
