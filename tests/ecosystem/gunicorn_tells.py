"""A configuration of gunicorn's: workers tell when they are about to serve."""


def post_worker_init(worker):
    print("worker is ready", flush=True)
