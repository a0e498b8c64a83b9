/* TLS of the load generator.  Nothing is verified: it talks to loopback only. */
#define _GNU_SOURCE
#include "tls.h"

#ifdef LOAD_TLS

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define READ_BYTES (128u << 10)
#define WRITE_BYTES (256 << 10)

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
    BIO *in = BIO_new_socket(fd, BIO_NOCLOSE), *out = BIO_new_socket(fd, BIO_NOCLOSE), *kept = BIO_new(BIO_f_buffer());
    if (ssl && in && out && kept && BIO_set_write_buffer_size(kept, WRITE_BYTES)) {
        /* Records are gathered, so that a long message costs a few sends and not one for each 16 KiB. */
        SSL_set_bio(ssl, in, BIO_push(kept, out));
        SSL_set_connect_state(ssl);
        return (struct tls *)ssl;
    }
    BIO_free(in);
    BIO_free(out);
    BIO_free(kept);
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

int tls_flush(struct tls *tls)
{
    BIO *out = SSL_get_wbio((SSL *)tls);
    if (BIO_wpending(out) == 0 || BIO_flush(out) == 1)
        return 1;
    return BIO_should_retry(out) ? 0 : -1;
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

int tls_flush(struct tls *tls)
{
    (void)tls;
    return -1;
}

bool tls_holds(struct tls *tls)
{
    (void)tls;
    return false;
}

#endif
