#!/bin/sh
# A wrapper of rustc (RUSTC_WORKSPACE_WRAPPER): this workspace's own crates get the counters that libFuzzer follows. All others are
# shared with builds that are not fuzzed.
name=
previous=
for argument; do
    [ "$previous" = --crate-name ] && name=$argument
    previous=$argument
done
case $name in
quorate_*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
