"""A configuration of gunicorn's in which workers are slow to make their loops: each waits for a file, START_WHEN."""

import os
import time

import flexsc_loop.threads
import flexsc_loop.web_worker


def slowly(function):
    def wait_before(*args, **kwargs):
        print(f"slow to start: {os.getpid()}.", flush=True)
        while not os.path.exists(os.environ["START_WHEN"]):
            time.sleep(0.02)
        return function(*args, **kwargs)

    return wait_before


flexsc_loop.threads.run = slowly(flexsc_loop.threads.run)
flexsc_loop.web_worker.new_event_loop = slowly(flexsc_loop.new_event_loop)
