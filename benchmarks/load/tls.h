/* The client's side of TLS on a non-blocking socket, by OpenSSL.  Without it (LOAD_TLS not defined) there is none. */
#ifndef FLEXSC_LOAD_TLS_H
#define FLEXSC_LOAD_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct tls; /* one connection */

bool tls_is_built_in(void);
/* Makes what all connections share; false when OpenSSL cannot. */
bool tls_set_up(void);
/* Puts TLS on a connected socket; NULL when there is no memory. */
struct tls *tls_open(int fd);
void tls_close(struct tls *tls);
/* Goes on with the handshake: 1 it is done, 0 the socket has to become ready first, -1 it failed. */
int tls_handshake(struct tls *tls);
/* As send(2) and recv(2); EAGAIN when the socket has to become ready first. */
ssize_t tls_send(struct tls *tls, const void *bytes, size_t n);
ssize_t tls_recv(struct tls *tls, void *bytes, size_t n);
/* Sends what tls_send has kept back: 1 all is out, 0 the socket has to become ready first, -1 it failed. */
int tls_flush(struct tls *tls);
/* Whether bytes have left the socket that tls_recv has not returned yet. */
bool tls_holds(struct tls *tls);

#endif
