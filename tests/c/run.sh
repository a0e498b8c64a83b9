#!/bin/sh
# Compile and run the C tests, of the user page, of the turn and of file threads, with run-time assertions: plain, with faults on demand,
# under ThreadSanitizer, under AddressSanitizer and UBSan.
#
#   tests/c/run.sh [plain|faults|tsan|asan|bench|all]      (all: the first four; CC picks the compiler)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
sources="$here/../../flexsc_loop/syscalls"
build="$here/build"
mode=${1:-all}
CC=${CC:-gcc}
tests="file_threads user_page_calls user_page_files user_page_echo user_page_wakes user_page_races user_page_late turn stats"

command -v "$CC" >/dev/null || { echo "run.sh: there is no compiler '$CC'; install gcc, or set CC" >&2; exit 2; }
mkdir -p "$build"

compile() { # name, program, flags...
    program=$1 source=$2
    shift 2
    "$CC" -std=c11 -g -Wall -Wextra -Wshadow "$@" "$source" "$sources"/user_page_*.c "$sources"/file_threads.c \
        "$sources"/file_job.c -pthread -o "$program"
}

passed=0
failed=0

run() { # kind, divisor of the rounds, flags...
    kind=$1 divisor=$2
    shift 2
    for name in $tests; do
        program="$build/${name}_$kind"
        compile "$program" "$here/test_$name.c" "$@"
        log="$program.log"
        if ! ROUNDS_DIVISOR=$divisor TSAN_OPTIONS="halt_on_error=1" UBSAN_OPTIONS="halt_on_error=1" \
            timeout 100 "$program" >"$log" 2>&1; then
            cat "$log"
            echo "FAILED: $program" >&2
            failed=$((failed + 1))
        fi
        last=$(tail -n 1 "$log")
        echo "$kind, $name: $last"
        case $last in
        *" passed, "*" failed")
            passed=$((passed + ${last%% passed*}))
            count=${last##*, }
            failed=$((failed + ${count%% failed}))
            ;;
        esac
    done
}

plain() { run plain 1 -O2 -DFLEXSC_CHECKS; }
# EINTR, EAGAIN, short counts and late calls (faults.h), which nobody may notice.
faults() {
    everything=$tests
    tests=user_page_echo
    for seed in 1 2 3; do
        export FLEXSC_FAULTS="$seed 3 99 0"
        run "faults_$seed" 8 -O1 -DFLEXSC_CHECKS -DFLEXSC_FAULTS
    done
    unset FLEXSC_FAULTS
    tests=$everything
}
# gcc's ThreadSanitizer does not understand fences.  They order flags here, never the data that flags protect.
tsan() { run tsan 20 -O1 -DFLEXSC_CHECKS -fsanitize=thread -Wno-unknown-warning-option -Wno-tsan; }
asan() { run asan 4 -O1 -DFLEXSC_CHECKS -fsanitize=address,undefined -fno-sanitize-recover=all; }

case $mode in
plain | faults | tsan | asan) "$mode" ;;
all) plain && faults && tsan && asan ;;
bench)
    compile "$build/bench" "$here/bench_user_page.c" -O2
    exec "$build/bench"
    ;;
*) echo "usage: run.sh [plain|faults|tsan|asan|bench|all]" >&2; exit 2 ;;
esac

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
