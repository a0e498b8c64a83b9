/* TLS of the load generator.  Nothing is verified: it talks to loopback only. */
#define _GNU_SOURCE
#include "tls.h"

#ifdef LOAD_TLS

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define READ_BYTES (64u << 10)

static SSL_CTX *context;

bool tls_is_built_in(void)
{
    return true;
}

bool tls_set_up(void)
{
    context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return false;
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* One receive for several records, instead of two for each. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BYTES);
    return true;
}

struct tls *tls_open(int fd)
{
    SSL *ssl = SSL_new(context);
    if (ssl && SSL_set_fd(ssl, fd)) {
        SSL_set_connect_state(ssl);
        return (struct tls *)ssl;
    }
    SSL_free(ssl);
    return NULL;
}

void tls_close(struct tls *tls)
{
    SSL_free((SSL *)tls);
}

static bool must_wait(SSL *ssl, int res)
{
    int error = SSL_get_error(ssl, res);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

int tls_handshake(struct tls *tls)
{
    ERR_clear_error();
    int res = SSL_do_handshake((SSL *)tls);
    return res == 1 ? 1 : must_wait((SSL *)tls, res) ? 0 : -1;
}

static ssize_t failed(SSL *ssl, int res)
{
    if (SSL_get_error(ssl, res) == SSL_ERROR_ZERO_RETURN)
        return 0;
    errno = must_wait(ssl, res) ? EAGAIN : EPROTO;
    return -1;
}

ssize_t tls_send(struct tls *tls, const void *bytes, size_t n)
{
    size_t written = 0;
    ERR_clear_error();
    int res = SSL_write_ex((SSL *)tls, bytes, n, &written);
    return res == 1 ? (ssize_t)written : failed((SSL *)tls, res);
}

ssize_t tls_recv(struct tls *tls, void *bytes, size_t n)
{
    size_t read = 0;
    ERR_clear_error();
    int res = SSL_read_ex((SSL *)tls, bytes, n, &read);
    return res == 1 ? (ssize_t)read : failed((SSL *)tls, res);
}

bool tls_holds(struct tls *tls)
{
    return SSL_has_pending((SSL *)tls);
}

#else

bool tls_is_built_in(void)
{
    return false;
}

bool tls_set_up(void)
{
    return false;
}

struct tls *tls_open(int fd)
{
    (void)fd;
    return NULL;
}

void tls_close(struct tls *tls)
{
    (void)tls;
}

int tls_handshake(struct tls *tls)
{
    (void)tls;
    return -1;
}

ssize_t tls_send(struct tls *tls, const void *bytes, size_t n)
{
    (void)tls, (void)bytes, (void)n;
    return -1;
}

ssize_t tls_recv(struct tls *tls, void *bytes, size_t n)
{
    (void)tls, (void)bytes, (void)n;
    return -1;
}

bool tls_holds(struct tls *tls)
{
    (void)tls;
    return false;
}

#endif
