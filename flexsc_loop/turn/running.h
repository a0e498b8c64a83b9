/* Floor 3: the name of the callback that runs, for whoever looks at the stats page.
 *
 * A blocked loop can't be asked, so each callback leaves its name before it runs.  That must cost next to nothing: names
 * stand in the page already, found by the address of what names the callback, and only the place is written.
 *
 * What a task runs, and a partial calls, is in fields that Python does not publish.  Where they are is found out by
 * looking for values that are known, once (`running_learn`, `running_learn_partial`); where that fails they are named
 * after their type. */
#ifndef FLEXSC_RUNNING_H
#define FLEXSC_RUNNING_H

#include <Python.h>
#include <stdbool.h>
#include <string.h>

#include "stats.h"

struct flexsc_names {
    const void *keys[FLEXSC_STATS_NAMES]; /* what stands at each place: a str, with a reference, or a C string */
    bool texts[FLEXSC_STATS_NAMES];
    uint32_t evict;
};

/* In words from an object's beginning; 0: not known. */
struct flexsc_fields {
    PyTypeObject *task_type, *step_type;
    uint32_t step_task, task_coro, coro_name;
    PyTypeObject *partial_type;
    uint32_t partial_function;
};

struct flexsc_running {
    const void *key;
    bool text;
};

static inline PyObject *running_field(PyObject *object, uint32_t at) { return ((PyObject **)object)[at]; }

/* The place of `value` in `object`, 0 if it is not there or not there alone. */
static inline uint32_t running_find(PyObject *object, PyObject *value)
{
    uint32_t found = 0;
    for (uint32_t at = 2; at < (uint32_t)Py_TYPE(object)->tp_basicsize / sizeof(void *); at++)
        if (running_field(object, at) == value) {
            if (found)
                return 0;
            found = at;
        }
    return found;
}

/* Learn from a task of which everything is known; `step` is what it has the loop call first. */
static inline void running_learn(struct flexsc_fields *fields, PyObject *step, PyObject *task, PyObject *coro,
                                 PyObject *name)
{
    fields->coro_name = PyCoro_CheckExact(coro) ? running_find(coro, name) : 0;
    fields->task_coro = running_find(task, coro);
    fields->step_task = running_find(step, task);
    if (!fields->coro_name || !fields->task_coro)
        return;
    Py_INCREF(Py_TYPE(task));
    fields->task_type = Py_TYPE(task);
    if (fields->step_task && !PyMethod_Check(step) && !PyCFunction_Check(step)) {
        Py_INCREF(Py_TYPE(step));
        fields->step_type = Py_TYPE(step);
    }
}

/* Likewise from a `functools.partial` of `function`. */
static inline void running_learn_partial(struct flexsc_fields *fields, PyObject *partial, PyObject *function)
{
    fields->partial_function = running_find(partial, function);
    if (!fields->partial_function)
        return;
    Py_INCREF(Py_TYPE(partial));
    fields->partial_type = Py_TYPE(partial);
}

static inline struct flexsc_running running_type(PyTypeObject *type)
{
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)
        return (struct flexsc_running){((PyHeapTypeObject *)type)->ht_qualname, true};
    return (struct flexsc_running){type->tp_name, false};
}

static inline struct flexsc_running running_task(const struct flexsc_fields *fields, PyObject *task)
{
    PyObject *coro = running_field(task, fields->task_coro);
    if (!coro)
        return running_type(Py_TYPE(task));
    if (PyCoro_CheckExact(coro) && running_field(coro, fields->coro_name))
        return (struct flexsc_running){running_field(coro, fields->coro_name), true};
    return running_type(Py_TYPE(coro));
}

/* What names a callback.  Valid as long as the callback is. */
static inline struct flexsc_running running_key(const struct flexsc_fields *fields, PyObject *callback)
{
    PyTypeObject *type = Py_TYPE(callback);
    if (type == fields->partial_type && running_field(callback, fields->partial_function)) {
        callback = running_field(callback, fields->partial_function);
        type = Py_TYPE(callback);
    }
    if (type == &PyCFunction_Type) {
        PyObject *self = PyCFunction_GET_SELF(callback);
        if (self && fields->task_type && PyObject_TypeCheck(self, fields->task_type))
            return running_task(fields, self);
        return (struct flexsc_running){((PyCFunctionObject *)callback)->m_ml->ml_name, false};
    }
    if (type == fields->step_type && type) {
        PyObject *task = running_field(callback, fields->step_task);
        if (task)
            return running_task(fields, task);
    }
    if (type == &PyMethod_Type) {
        callback = PyMethod_GET_FUNCTION(callback);
        type = Py_TYPE(callback);
    }
    if (type == &PyFunction_Type)
        return (struct flexsc_running){((PyFunctionObject *)callback)->func_qualname, true};
    return running_type(type);
}

/* Write a name that is not there yet.  Returns its place. */
static inline uint32_t running_add(struct flexsc_stats *stats, struct flexsc_names *names, struct flexsc_running what,
                                   uint32_t at)
{
    if (names->keys[at])
        at ^= names->evict++ & 1;
    const char *text = what.text ? PyUnicode_AsUTF8((PyObject *)what.key) : what.key;
    if (!text) {
        PyErr_Clear(); /* a lone surrogate */
        text = "?";
    }
    PyObject *gone = names->texts[at] ? (PyObject *)names->keys[at] : NULL;
    if (what.text)
        Py_INCREF((PyObject *)what.key);
    names->keys[at] = what.key;
    names->texts[at] = what.text;
    stats_text(stats->page->names[at], FLEXSC_STATS_NAME_SIZE, text);
    Py_XDECREF(gone);
    return at;
}

static inline void running_is(struct flexsc_stats *stats, struct flexsc_names *names, struct flexsc_running what)
{
    uintptr_t key = (uintptr_t)what.key;
    uint32_t at = (uint32_t)(key >> 4 ^ key >> 10) % FLEXSC_STATS_NAMES;
    if (names->keys[at] != what.key) {
        at ^= 1;
        if (names->keys[at] != what.key)
            at = running_add(stats, names, what, at ^ 1);
    }
    stats->page->running = at + 1;
}

static inline void running_forget(struct flexsc_names *names)
{
    for (uint32_t at = 0; at < FLEXSC_STATS_NAMES; at++) {
        PyObject *text = names->texts[at] ? (PyObject *)names->keys[at] : NULL;
        names->keys[at] = NULL;
        names->texts[at] = false;
        Py_XDECREF(text);
    }
}

#endif
