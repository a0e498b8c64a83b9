"""Blocking client libraries, unmodified, in green threads, with real servers; and that they wait side by side."""

import pytest
from threads_support import check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

SERVER = """
import http.server, hashlib

class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep(0.05)
        self.answer(self.path.encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d" % server.server_port

def side_by_side(count, function):
    seen = Collected()
    for thread in [in_thread(lambda i=i: seen(function(i))) for i in range(count)]:
        thread.join()
    return seen
"""


def test_requests(way):
    pytest.importorskip("requests")
    check(way, SERVER + """
import requests

def main():
    url = serve()
    begin = time.monotonic()
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=10, pool_block=True))
        texts = side_by_side(40, lambda i: session.get(f"{url}/{i}").text)
        assert sorted(texts) == sorted(f"/{i}" for i in range(40))
        assert 0.2 <= time.monotonic() - begin < 10
        body = os.urandom(2_000_000)
        assert session.post(url, data=body).text == hashlib.sha256(body).hexdigest()
        raised(requests.exceptions.ReadTimeout, lambda: session.get(url, timeout=0.01))
    raised(requests.exceptions.ConnectionError, lambda: requests.get("http://127.0.0.1:1/"))
""")


def test_urllib3_and_httpx(way):
    pytest.importorskip("urllib3")
    pytest.importorskip("httpx")
    check(way, SERVER + """
import httpx, urllib3

def main():
    url = serve()
    pool = urllib3.PoolManager(maxsize=5, block=True)
    assert sorted(side_by_side(20, lambda i: pool.request("GET", f"{url}/{i}").data)) == sorted(
        f"/{i}".encode() for i in range(20))
    with httpx.Client() as client:
        assert sorted(side_by_side(20, lambda i: client.get(f"{url}/{i}").text)) == sorted(f"/{i}" for i in range(20))
        raised(httpx.ReadTimeout, lambda: client.get(url, timeout=0.01))
    pool.clear()
""")


def test_redis(way, redis_server):
    pytest.importorskip("redis")
    check(way, SERVER + f"""
import redis

def main():
    client = redis.Redis(host="127.0.0.1", port={redis_server.port}, socket_timeout=20)
    client.flushall()
    big = os.urandom(1_000_000)
    client.set("big", big)
    assert client.get("big") == big
    side_by_side(30, lambda i: [client.incr("count") for _ in range(20)])
    assert client.get("count") == b"600"
    seen = Collected()
    waiting = in_thread(lambda: seen(client.blpop("list", timeout=10)))
    time.sleep(0.02)
    client.rpush("list", "value")
    waiting.join()
    assert seen == [(b"list", b"value")]
    channel = client.pubsub()
    channel.subscribe("news")
    assert channel.get_message(timeout=5)["type"] == "subscribe"
    publisher = threading.Timer(0.05, client.publish, ("news", "hello"))
    publisher.start()
    assert channel.get_message(timeout=5)["data"] == b"hello"
    publisher.join()
    channel.close()
    client.flushall()
    client.close()
""")


def test_pymysql(way, mariadb):
    pytest.importorskip("pymysql")
    check(way, SERVER + f"""
import pymysql

def main():
    def ask(i):
        connection = pymysql.connect(unix_socket={str(mariadb.socket)!r}, user="root")
        with connection, connection.cursor() as cursor:
            cursor.execute("select sleep(0.1), %s, repeat('x', 100000)", (i,))
            return cursor.fetchone()

    begin = time.monotonic()
    rows = side_by_side(20, ask)
    assert sorted(row[1] for row in rows) == list(range(20)) and {{len(row[2]) for row in rows}} == {{100_000}}
    assert time.monotonic() - begin < 1.9
""")
