//! A C compiler, make, what they build, and programs that are replaced while they run.

use crate::workshop::Workshop;

#[test]
fn make_builds_a_program_and_knows_what_is_out_of_date() {
    let test = "make_builds_a_program_and_knows_what_is_out_of_date";
    let Some(workshop) = Workshop::open(test, "workshop") else {
        return;
    };
    workshop.both(include_str!("build.sh"));
    let shown = workshop.assert_alike(&[]);
    workshop.finish(
        &shown,
        "cd /usr/src/words; make -q words; ./words </etc/passwd; ./static <table.c",
    );
}

#[test]
fn a_program_that_runs_cannot_be_written_to() {
    let test = "a_program_that_runs_cannot_be_written_to";
    let Some(workshop) = Workshop::open(test, "workshop") else {
        return;
    };
    workshop.both(include_str!("running.sh"));
    let shown = workshop.assert_alike(&[]);
    workshop.finish(
        &shown,
        "/usr/local/bin/written hello; head -n 1 /etc/passwd",
    );
}
