/* Incremental HTTP/1.1 response parser.  Bodies are counted and thrown away; heads may be split over reads. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEAD_MAX 16384

void http_reset(struct http_parser *p)
{
    p->state = H_HEAD;
    p->left = 0;
    p->status = 0;
    p->close = false;
    p->line = 0;
    p->head_len = 0;
    p->gathered = 0;
}

void http_free(struct http_parser *p)
{
    free(p->head);
    p->head = NULL;
}

/* If the line [line, end) is the header `name` (lower case, with its colon), returns its value, trimmed. */
static const char *header_value(const char *line, const char *end, const char *name, size_t *len)
{
    size_t n = strlen(name);
    if ((size_t)(end - line) < n || strncasecmp(line, name, n) != 0)
        return NULL;
    const char *value = line + n;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *len = (size_t)(end - value);
    return value;
}

static bool value_is(const char *value, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(value, word, len) == 0;
}

static bool value_ends_with(const char *value, size_t len, const char *word)
{
    size_t n = strlen(word);
    return len >= n && strncasecmp(value + len - n, word, n) == 0;
}

static bool parse_number(const char *text, size_t len, uint64_t *number)
{
    uint64_t value = 0;
    if (len == 0 || len > 18)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *number = value;
    return true;
}

struct framing {
    bool has_length, chunked;
    uint64_t length;
};

static bool parse_header(struct http_parser *p, const char *line, const char *end, struct framing *f)
{
    size_t len;
    const char *value;
    if ((line[0] | 0x20) == 'c') {
        if ((value = header_value(line, end, "content-length:", &len))) {
            f->has_length = true;
            return parse_number(value, len, &f->length);
        }
        if ((value = header_value(line, end, "connection:", &len)))
            p->close = value_is(value, len, "close") || (p->close && !value_is(value, len, "keep-alive"));
    } else if ((line[0] | 0x20) == 't') {
        if ((value = header_value(line, end, "transfer-encoding:", &len)))
            f->chunked = value_ends_with(value, len, "chunked");
    }
    return true;
}

/* Parses a whole head, the empty line included, and decides how the body is framed. */
static bool parse_head(struct http_parser *p, const char *head, size_t n)
{
    struct framing f = {0};
    uint64_t status;
    const char *end = head + n - 2;
    if (n < 16 || memcmp(head, "HTTP/1.", 7) != 0 || head[8] != ' ' || !parse_number(head + 9, 3, &status))
        return false;
    p->status = (int)status;
    p->close = head[7] == '0';
    const char *line = memchr(head, '\n', n);
    for (line++; line < end;) {
        const char *stop = memchr(line, '\r', (size_t)(head + n - line));
        if (!stop || stop[1] != '\n' || !parse_header(p, line, stop, &f))
            return false;
        line = stop + 2;
    }
    if (status < 200 || status == 204 || status == 304) {
        p->state = H_DONE;
    } else if (f.chunked) {
        p->state = H_SIZE;
        p->left = 0;
    } else if (f.has_length) {
        p->left = f.length;
        p->state = f.length ? H_LENGTH : H_DONE;
    } else {
        p->close = true;
        p->state = H_UNTIL_EOF;
    }
    return true;
}

/* Takes bytes of the head; returns how many, or -1 when it is malformed or too long. */
static ptrdiff_t feed_head(struct http_parser *p, const char *bytes, size_t n)
{
    if (p->head_len == 0) {
        const char *end = memmem(bytes, n, "\r\n\r\n", 4);
        if (end) {
            size_t len = (size_t)(end - bytes) + 4;
            return parse_head(p, bytes, len) ? (ptrdiff_t)len : -1;
        }
    }
    if (!p->head && !(p->head = malloc(HEAD_MAX)))
        return -1;
    size_t room = HEAD_MAX - p->head_len, take = n < room ? n : room;
    size_t from = p->head_len > 3 ? p->head_len - 3 : 0;
    memcpy(p->head + p->head_len, bytes, take);
    const char *end = memmem(p->head + from, p->head_len + take - from, "\r\n\r\n", 4);
    if (!end) {
        p->head_len += (uint32_t)take;
        return p->head_len == HEAD_MAX ? -1 : (ptrdiff_t)take;
    }
    size_t len = (size_t)(end - p->head) + 4, taken = len - p->head_len;
    p->head_len = 0;
    p->gathered = (uint32_t)len;
    return parse_head(p, p->head, len) ? (ptrdiff_t)taken : -1;
}

/* The size line of a chunk: hexadecimal digits, perhaps an extension, CRLF. */
static bool feed_size(struct http_parser *p, char c)
{
    if (c == '\n') {
        if (p->line == 0)
            return false;
        p->line = 0;
        p->state = p->left ? H_CHUNK : H_TRAILER;
        return true;
    }
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
    if (p->state == H_SIZE && digit >= 0) {
        p->left = p->left * 16 + (uint64_t)digit;
        return ++p->line <= 15;
    }
    if (c != '\r' && c != ';' && p->state == H_SIZE)
        return false;
    p->state = H_SIZE_LINE;
    return true;
}

static bool feed_framing(struct http_parser *p, char c)
{
    switch (p->state) {
    case H_SIZE:
    case H_SIZE_LINE:
        return feed_size(p, c);
    case H_CHUNK_END:
        if (c != "\r\n"[p->line])
            return false;
        if (++p->line == 2) {
            p->line = 0;
            p->left = 0;
            p->state = H_SIZE;
        }
        return true;
    default: /* H_TRAILER */
        if (c == '\n') {
            if (p->line == 0)
                p->state = H_DONE;
            p->line = 0;
        } else if (c != '\r') {
            p->line++;
        }
        return true;
    }
}

static enum verdict finished(const struct http_parser *p)
{
    return p->status >= 400 ? V_STATUS : V_DONE;
}

enum verdict http_feed(struct http_parser *p, const char *bytes, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t rest = n - at;
        if (p->state == H_HEAD) {
            ptrdiff_t taken = feed_head(p, bytes + at, rest);
            if (taken < 0)
                return V_BROKEN;
            at += (size_t)taken;
            if (p->state == H_DONE && p->status >= 100 && p->status < 200 && p->status != 101)
                http_reset(p); /* an interim response: the real one follows */
        } else if (p->state == H_LENGTH || p->state == H_CHUNK) {
            size_t take = rest < p->left ? rest : (size_t)p->left;
            at += take;
            p->left -= take;
            if (p->left == 0)
                p->state = p->state == H_LENGTH ? H_DONE : H_CHUNK_END;
        } else if (p->state == H_UNTIL_EOF) {
            at = n;
        } else if (p->state == H_DONE) {
            return V_BROKEN; /* nothing was asked for that could answer this */
        } else if (!feed_framing(p, bytes[at++])) {
            return V_BROKEN;
        }
    }
    return p->state == H_DONE ? finished(p) : V_MORE;
}

enum verdict http_eof(struct http_parser *p)
{
    if (p->state != H_UNTIL_EOF && p->state != H_DONE)
        return V_BROKEN;
    p->state = H_DONE;
    return finished(p);
}

bool http_has_line(const char *bytes, size_t n, const char *line)
{
    size_t len = strlen(line);
    for (const char *at = bytes; (at = memchr(at, '\n', (size_t)(bytes + n - at))) && ++at < bytes + n;)
        if ((size_t)(bytes + n - at) >= len && strncasecmp(at, line, len) == 0)
            return true;
    return false;
}
