/* Floor 4: where TLS records begin and end in a stream of bytes.
 *
 * A record is a header of five bytes (type, version, length of the body) and a body.  How many records are complete
 * says how often a read can succeed.  Pure arithmetic.  Source: RFC 8446, section 5.1; RFC 5246, section 6.2.
 */
#ifndef FLEXSC_RECORDS_H
#define FLEXSC_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RECORD_HEADER = 5,
    RECORD_FIRST_TYPE = 20, /* change_cipher_spec; 21 alert, 22 handshake */
    RECORD_DATA = 23,
    RECORD_LAST_TYPE = 24,  /* heartbeat */
    RECORD_BODY_MOST = 16384 + 2048,
};

/* The record that has begun; all zero at the beginning of a stream. */
struct flexsc_records {
    uint8_t header[RECORD_HEADER];
    uint8_t have;     /* bytes of its header so far */
    bool lost;        /* bytes came that are no TLS: nothing is known from here on */
    uint32_t missing; /* bytes of its body still to come */
    uint32_t body;    /* size of its body */
};

/* What some bytes have completed. */
struct flexsc_scan {
    size_t complete; /* records of application data */
    size_t room;     /* bytes of their bodies: no less than what they hold */
    bool odd;        /* there was a record of another type, an empty one, or no record at all */
};

static inline void records_end(struct flexsc_records *records, struct flexsc_scan *scan)
{
    records->have = 0;
    if (records->header[0] != RECORD_DATA || records->body == 0) {
        scan->odd = true;
        return;
    }
    scan->complete++;
    scan->room += records->body;
}

/* The header is complete. */
static inline void records_begin(struct flexsc_records *records, struct flexsc_scan *scan)
{
    const uint8_t *header = records->header;
    records->body = records->missing = (uint32_t)header[3] << 8 | header[4];
    if (header[0] < RECORD_FIRST_TYPE || header[0] > RECORD_LAST_TYPE || header[1] != 3 ||
        records->body > RECORD_BODY_MOST)
        records->lost = scan->odd = true;
    else if (records->body == 0)
        records_end(records, scan);
}

/* Take note of the next `size` bytes of the stream. */
static inline void records_scan(struct flexsc_records *records, const uint8_t *data, size_t size,
                                struct flexsc_scan *scan)
{
    scan->complete = scan->room = 0;
    scan->odd = records->lost;
    while (size && !records->lost) {
        if (records->have < RECORD_HEADER) {
            records->header[records->have++] = *data++;
            size--;
            if (records->have == RECORD_HEADER)
                records_begin(records, scan);
            continue;
        }
        size_t step = size < records->missing ? size : records->missing;
        records->missing -= (uint32_t)step;
        data += step;
        size -= step;
        if (records->missing == 0)
            records_end(records, scan);
    }
}

#endif
