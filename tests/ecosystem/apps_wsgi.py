"""WSGI applications for gunicorn's workers: a bare one, Flask's and Bottle's."""

import ctypes
import os
import threading
import time
from wsgiref.util import FileWrapper

from support import payload


def bare(environ, start_response):
    """Answers with what was asked for; `/slow` after a while, `/file` with a file."""
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    headers = [("Content-Type", "text/plain")]
    if path == "/slow":
        print("slow request has come", flush=True)
        time.sleep(float(query))
    if path == "/block":
        print("blocking request has come", flush=True)
        ctypes.CDLL(None).poll(None, 0, int(1000 * float(query)))
    if path == "/file":
        wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
        start_response("200 OK", [*headers, ("Content-Length", str(os.path.getsize(query)))])
        return wrapper(open(query, "rb"))
    if path == "/fail":
        raise RuntimeError("as asked for")
    if path == "/stream":
        start_response("200 OK", headers)
        return (payload(100_000) for _ in range(int(query)))
    body = environ["wsgi.input"].read() if path == "/echo" else f"{os.getpid()} {threading.get_ident()}".encode()
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]


def make_flask():
    import flask

    app = flask.Flask(__name__)

    @app.get("/json")
    def answer_json():
        time.sleep(0.05)
        return {"name": flask.request.args["name"], "green": type(threading.current_thread()).__name__}

    @app.post("/upload")
    def upload():
        return str(len(flask.request.files["file"].read()))

    return app


def make_bottle():
    import bottle

    app = bottle.Bottle()

    @app.get("/json/<name>")
    def answer_json(name):
        time.sleep(0.05)
        return {"name": name, "method": bottle.request.method}

    return app
