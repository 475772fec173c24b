#!/bin/bash
# How much of the FUSE adapter and of the live image the tests of a hostile guest reach, by file.
#
#   scripts/fuzz-coverage.sh [SECONDS]      of each random test; needs rustup, root and /dev/fuse
set -euo pipefail
cd "$(dirname "$0")/.."

# Of the toolchain's own version: the format of profiles changes with it.
rustup component add llvm-tools 2>/dev/null
tools=$(rustc --print target-libdir)/../bin
out=$PWD/target/coverage
rm -rf --one-file-system "$out"
mkdir -p "$out"

# Only this crate counts: dependencies are used as they are.
cat >"$out/rustc" <<'WRAPPER'
#!/bin/sh
exec "$@" -C instrument-coverage
WRAPPER
chmod +x "$out/rustc"
export RUSTC_WORKSPACE_WRAPPER=$out/rustc LLVM_PROFILE_FILE=$out/%p-%m.profraw
export FOLDFS_TEST_HOSTILE_SECONDS=${1:-60} FOLDFS_TEST_ENTRIES=${FOLDFS_TEST_ENTRIES:-20000}

cargo test --locked --test hostile_guest
test=$(cargo test --locked --test hostile_guest --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*hostile_guest[^"]*\)".*/\1/p')
"$tools/llvm-profdata" merge --sparse "$out"/*.profraw -o "$out/all.profdata"
"$tools/llvm-cov" report --instr-profile "$out/all.profdata" --object "$test" \
    --object target/debug/foldfs --sources src/serve/fuse src/filesystem |
    awk '/\.rs / || /^TOTAL/ { print $1, $8, $9, $10 }' | column -t -N FILE,LINES,MISSED,REACHED -R 2,3,4
