/* Floor 3: what Python tells of calls that block, or that end the process, before it makes them (PEP 578). */
#ifndef FLEXSC_AUDIT_H
#define FLEXSC_AUDIT_H

#include <Python.h>
#include <stdbool.h>
#include <string.h>

static const char *const audit_calls[] = {
    "os.exec",     "os.fork",   "os.forkpty",          "os.kill",          "os.killpg", "os.posix_spawn",
    "os.spawn",    "os.system", "signal.pthread_kill", "subprocess.Popen", "time.sleep",
};

static inline bool audit_concerns(const char *event)
{
    /* Most events are "object.__getattr__", "builtins.id", "sys._getframe", "import", "open" and "compile". */
    if (strncmp(event, "os.", 3) && strncmp(event, "su", 2) && strncmp(event, "si", 2) && strncmp(event, "ti", 2))
        return false;
    for (size_t i = 0; i < sizeof audit_calls / sizeof *audit_calls; i++)
        if (strcmp(event, audit_calls[i]) == 0)
            return true;
    return false;
}

static int audit_hook(const char *event, PyObject *arguments, void *callback)
{
    (void)arguments;
    if (!audit_concerns(event) || PyInterpreterState_Get() != PyInterpreterState_Main())
        return 0;
    PyObject *result = PyObject_CallNoArgs(callback);
    if (result == NULL)
        PyErr_WriteUnraisable(callback);
    else
        Py_DECREF(result);
    return 0;
}

/* Have `callback` called before each of these calls, in the thread that makes it, to the end of the process. */
static inline int audit_begin(PyObject *callback)
{
    if (PySys_AddAuditHook(audit_hook, callback) < 0)
        return -1;
    Py_INCREF(callback);
    return 0;
}

#endif
