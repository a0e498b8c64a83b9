/* Floor 5: what green threads share with the real thread that they run in: which one runs, and the hooks of generators. */
#ifndef FLEXSC_THREAD_STATE_H
#define FLEXSC_THREAD_STATE_H

#include <Python.h>
#include <pthread.h>

static __thread PyObject *running_thread; /* borrowed: the hub holds it while it runs */
static __thread PyObject *forking_thread; /* the same, in a forked child: it goes on there */

/* In a forked child, before any of Python's own functions for that, which take locks and must not switch. */
static void none_runs(void) {
    forking_thread = running_thread;
    running_thread = NULL;
}

static void forget_after_fork(void) { pthread_atfork(NULL, NULL, none_runs); }

/* Source: cpython/pystate.h. */
typedef struct {
    PyObject *first, *last;
} hooks_of_generators;

static hooks_of_generators take_hooks(void) {
    PyThreadState *state = PyThreadState_Get();
    hooks_of_generators hooks = {state->async_gen_firstiter, state->async_gen_finalizer};
    state->async_gen_firstiter = state->async_gen_finalizer = NULL;
    return hooks;
}

static void give_hooks(hooks_of_generators hooks) {
    PyThreadState *state = PyThreadState_Get();
    Py_XSETREF(state->async_gen_firstiter, hooks.first);
    Py_XSETREF(state->async_gen_finalizer, hooks.last);
}

#endif
