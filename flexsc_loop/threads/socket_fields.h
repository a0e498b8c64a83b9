/* Floor 5: how Python lays its own socket objects out. */
#ifndef FLEXSC_SOCKET_FIELDS_H
#define FLEXSC_SOCKET_FIELDS_H

#include <Python.h>
#include <stdint.h>

/* Whether it is so is looked at before it is relied on.  Source: socketmodule.h. */
struct socket_fields {
    PyObject_HEAD
    int fd;
    int family;
    int type;
    int proto;
    void *error_handler;
    int64_t timeout_ns; /* -1: blocking, 0: not */
};

#endif
