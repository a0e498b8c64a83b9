/* Floor 0: places where a tracer can look, as SystemTap's and bpftrace's USDT probes.
 *
 * A probe is a `nop`, and a note in the file that tells where it is and where its arguments are: it costs that one
 * instruction until somebody attaches.  The notes are written here, since sys/sdt.h is rarely installed; their format is
 * that of SystemTap's wiki, "UserSpaceProbeImplementation", version 3.
 *
 *     bpftrace -e 'usdt:/path/to/turn*.so:flexsc:turn_end { @ticks = hist(arg1); }' -p PID */
#ifndef FLEXSC_PROBE_H
#define FLEXSC_PROBE_H

#include <stdint.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))

/* In the note of type 3, owner "stapsdt": the address of the nop, that of a section that moves with the file, none of a
 * semaphore; provider, name, and the arguments as "size@operand", where a negative size is a signed number. */
#define FLEXSC_PROBE2(name, first, second)                                                                             \
    __asm__ volatile("990: nop\n"                                                                                      \
                     ".pushsection .note.stapsdt, \"?\", \"note\"\n"                                                   \
                     ".balign 4\n"                                                                                     \
                     ".4byte 992f - 991f, 994f - 993f, 3\n"                                                            \
                     "991: .asciz \"stapsdt\"\n"                                                                       \
                     "992: .balign 4\n"                                                                                \
                     "993: .8byte 990b\n"                                                                              \
                     ".8byte _.stapsdt.base\n"                                                                         \
                     ".8byte 0\n"                                                                                      \
                     ".asciz \"flexsc\"\n"                                                                             \
                     ".asciz \"" #name "\"\n"                                                                          \
                     ".asciz \"8@%0 -8@%1\"\n"                                                                         \
                     "994: .balign 4\n"                                                                                \
                     ".popsection\n"                                                                                   \
                     ".ifndef _.stapsdt.base\n"                                                                        \
                     ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"                       \
                     ".weak _.stapsdt.base\n"                                                                          \
                     ".hidden _.stapsdt.base\n"                                                                        \
                     "_.stapsdt.base: .space 1\n"                                                                      \
                     ".size _.stapsdt.base, 1\n"                                                                       \
                     ".popsection\n"                                                                                   \
                     ".endif\n"                                                                                        \
                     :                                                                                                 \
                     : "r"((uint64_t)(first)), "r"((int64_t)(second)))

#else
#define FLEXSC_PROBE2(name, first, second) ((void)(first), (void)(second))
#endif

/* Each tells the number of the loop in its process, and, in ticks (tick_count.h) unless it says otherwise: how long what
 * the turn found to do had waited; how long the turn took; how many nanoseconds it may sleep, -1: for ever; how long it
 * has slept; how many endpoints have something to send. */
static inline void probe_turn_begin(uint64_t loop, uint64_t lag) { FLEXSC_PROBE2(turn_begin, loop, lag); }
static inline void probe_turn_end(uint64_t loop, uint64_t ticks) { FLEXSC_PROBE2(turn_end, loop, ticks); }
static inline void probe_sleep(uint64_t loop, int64_t most_ns) { FLEXSC_PROBE2(sleep, loop, most_ns); }
static inline void probe_wake(uint64_t loop, uint64_t ticks) { FLEXSC_PROBE2(wake, loop, ticks); }
static inline void probe_publish(uint64_t loop, uint64_t endpoints) { FLEXSC_PROBE2(publish, loop, endpoints); }

#endif
