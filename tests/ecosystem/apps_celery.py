"""Tasks for Celery's worker."""

import os
import time

from celery import Celery

from flexsc_loop import threads

app = Celery("apps_celery", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def double(number):
    """The double, and whether a green thread has found it."""
    time.sleep(0.1)
    return 2 * number, threads.current_thread() is not None


@app.task
def fail():
    return 1 / 0
