/* What is sent and what has to come back, made once before the run. */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VARIANT_STEP 61
#define VARIANT_BYTES (64u << 20)
/* The sample key of RFC 6455, section 1.3, with its answer: no SHA-1 is needed to check it. */
#define WS_KEY "dGhlIHNhbXBsZSBub25jZQ=="
const char WS_ACCEPT_LINE[] = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

static void *allocate(size_t n)
{
    void *memory = malloc(n ? n : 1);
    if (!memory) {
        fprintf(stderr, "load: out of memory (%zu bytes)\n", n);
        exit(1);
    }
    return memory;
}

static char *random_bytes(size_t n)
{
    char *bytes = allocate(n);
    uint64_t x = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (char)(x >> 32);
    }
    return bytes;
}

static char *http_request(const struct options *o, const char *extra, size_t *len)
{
    char *text = NULL;
    const char *host = o->unix_path ? "localhost" : o->host;
    const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
    int n = asprintf(&text, "GET %s HTTP/1.1\r\nHost: %s%s%s:%d\r\n%s\r\n", o->path, open, host, close, o->port, extra);
    if (n < 0) {
        fprintf(stderr, "load: out of memory\n");
        exit(1);
    }
    *len = (size_t)n;
    return text;
}

/* Writes the header of an unfragmented binary frame (RFC 6455, section 5.2); returns its length. */
static size_t ws_header(char *at, size_t size, bool masked)
{
    unsigned char *p = (unsigned char *)at;
    unsigned char mask_bit = masked ? 0x80 : 0;
    int length_bytes = size < 126 ? 0 : size < 65536 ? 2 : 8;
    p[0] = 0x82;
    p[1] = (unsigned char)(mask_bit | (length_bytes == 0 ? size : length_bytes == 2 ? 126 : 127));
    for (int i = 0; i < length_bytes; i++)
        p[2 + i] = (unsigned char)((uint64_t)size >> (8 * (length_bytes - 1 - i)));
    return (size_t)(2 + length_bytes);
}

static void build_echo(struct messages *m, const struct options *o, const char *noise)
{
    m->out_len = m->expect_len = o->size;
    m->bulk = o->mode == MODE_ECHO && o->size >= BULK_BYTES && !o->unix_path;
    for (int v = 0; v < m->variants; v++)
        m->out[v] = m->expect[v] = noise + (size_t)v * VARIANT_STEP;
}

static void build_ws(struct messages *m, const struct options *o, const char *noise)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    m->handshake = http_request(
        o, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " WS_KEY "\r\n",
        &m->handshake_len);
    for (int v = 0; v < m->variants; v++) {
        const char *payload = noise + (size_t)v * VARIANT_STEP;
        char *out = allocate(o->size + 14), *expect = allocate(o->size + 10);
        size_t header = ws_header(out, o->size, true);
        memcpy(out + header, mask, 4);
        for (size_t i = 0; i < o->size; i++)
            out[header + 4 + i] = (char)(payload[i] ^ mask[i & 3]);
        m->out_len = header + 4 + o->size;
        ws_header(expect, o->size, false);
        memcpy(expect + header, payload, o->size);
        m->expect_len = header + o->size;
        m->out[v] = out;
        m->expect[v] = expect;
    }
}

void messages_build(struct messages *m, const struct options *o)
{
    memset(m, 0, sizeof *m);
    if (o->mode == MODE_HTTP || o->mode == MODE_HTTP_CLOSE) {
        m->variants = 1;
        m->out[0] = http_request(o, o->mode == MODE_HTTP ? "" : "Connection: close\r\n", &m->out_len);
        return;
    }
    size_t fits = VARIANT_BYTES / (o->size ? o->size : 1);
    m->variants = fits < 1 ? 1 : fits > MAX_VARIANTS ? MAX_VARIANTS : (int)fits;
    const char *noise = random_bytes(o->size + (size_t)m->variants * VARIANT_STEP);
    if (o->mode == MODE_WS)
        build_ws(m, o, noise);
    else
        build_echo(m, o, noise);
}
