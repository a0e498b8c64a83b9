"""Blocking client libraries, unmodified, in green threads, with real servers; and that they wait side by side."""

import re
import sys

import pytest
from threads_support import SIDE_BY_SIDE, check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

SERVER = SIDE_BY_SIDE + """
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


def test_pymongo(way, start):
    """With a stand-in for its server, which no distribution packages any more."""
    pytest.importorskip("pymongo")
    server = start(sys.executable, "mongo_stand_in.py")
    server.wait_for("listening on")
    port = re.search(r"listening on (\d+)\.", server.text())[1]
    check(way, SERVER + f"""
import pymongo

def main():
    with pymongo.MongoClient("127.0.0.1", {port}, maxPoolSize=10, serverSelectionTimeoutMS=20_000) as client:
        things = client.test.things
        side_by_side(30, lambda i: things.insert_one({{"_id": i, "data": bytes([i]) * 100_000}}))
        found = {{one["_id"]: one["data"] for one in things.find({{}}, batch_size=7)}}
        assert found == {{i: bytes([i]) * 100_000 for i in range(30)}}
        begin = time.monotonic()
        side_by_side(10, lambda _i: client.admin.command("sleep", seconds=0.5))
        assert time.monotonic() - begin < 4.5
        assert things.delete_many({{"data": b"\\5" * 100_000}}).deleted_count == 1
        assert [*things.find({{"_id": 5}})] == [] and [one["_id"] for one in things.find({{"_id": 6}})] == [6]
""")


@pytest.mark.one_way
def test_paramiko(way):
    pytest.importorskip("paramiko")
    check(way, SIDE_BY_SIDE + """
import paramiko

KEY = paramiko.RSAKey.generate(2048)

class Server(paramiko.ServerInterface):
    def check_auth_password(self, username, password):
        return paramiko.AUTH_SUCCESSFUL if password == "secret" else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "password"

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        threading.Thread(target=self.execute, args=(channel, command)).start()
        return True

    def execute(self, channel, command):
        time.sleep(0.1)
        channel.sendall(command.upper() * 10_000)
        channel.send_exit_status(5)
        channel.close()

def serve(listener, transports):
    with contextlib.suppress(OSError):
        while True:
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(KEY)
            transport.start_server(server=Server())
            transports.append(transport)

def main():
    listener, transports = socket.create_server(("127.0.0.1", 0)), []
    serving = in_thread(serve, listener, transports)
    port = listener.getsockname()[1]

    def connect(password="secret"):
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", port, username="me", password=password, look_for_keys=False, allow_agent=False)
        return client

    def ask(client, i):
        _, out, _ = client.exec_command(f"echo {i}", timeout=20)
        return out.read(), out.channel.recv_exit_status()

    with connect() as one, connect() as two:
        answers = side_by_side(10, lambda i: ask((one, two)[i % 2], i))
        assert sorted(answers) == [(b"ECHO %d" % i * 10_000, 5) for i in range(10)]
        assert one.get_transport().remote_version.startswith("SSH-2.0-paramiko")
    paramiko.util.log_to_file("/dev/null")
    with connect() as client:
        raised(paramiko.AuthenticationException, connect, "wrong")
    listener.close()
    serving.join(10)
    for transport in transports:
        transport.close()
""")


@pytest.mark.one_way
def test_boto3(way):
    pytest.importorskip("boto3")
    check(way, SIDE_BY_SIDE + """
import hashlib, http.server
import boto3, botocore

class Storage(http.server.BaseHTTPRequestHandler):
    '''As much of S3 as is asked for here.'''
    protocol_version = "HTTP/1.1"
    objects = {}

    def do_PUT(self):
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256")
        self.objects[self.path] = body
        self.answer(200, b"", ETag='"%s"' % hashlib.md5(body).hexdigest())

    def do_GET(self):
        time.sleep(0.02)
        body = self.objects.get(self.path.partition("?")[0])
        if body is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
        else:
            self.answer(200, body, ETag='"%s"' % hashlib.md5(body).hexdigest())

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.objects[self.path])))
        self.end_headers()

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    serving = in_thread(server.serve_forever)
    client = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:%d" % server.server_port, region_name="eu-central-1",
        aws_access_key_id="key", aws_secret_access_key="secret",
        config=botocore.config.Config(
            s3={"addressing_style": "path"}, max_pool_connections=5, request_checksum_calculation="when_required"))
    bodies = [os.urandom(100_000) for _ in range(20)]
    side_by_side(20, lambda i: client.put_object(Bucket="bucket", Key=str(i), Body=bodies[i]))
    got = side_by_side(20, lambda i: (i, client.get_object(Bucket="bucket", Key=str(i))["Body"].read()))
    assert dict(got) == dict(enumerate(bodies))
    raised(client.exceptions.NoSuchKey, lambda: client.get_object(Bucket="bucket", Key="none"))
    # Its managed transfers use threads of their own.
    import io
    out = io.BytesIO()
    client.download_fileobj("bucket", "7", out)
    assert out.getvalue() == bodies[7]
    client.close()
    server.shutdown()
    serving.join()
    server.server_close()
""")
