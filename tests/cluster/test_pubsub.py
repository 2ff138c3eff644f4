# SPDX-License-Identifier: Apache-2.0
"""Publish and subscribe of gcs_server, in gRPC: what is heard, in which order, and what a bound or a kill takes away."""
import json
import os
import random
import re
import signal
import struct
import subprocess

import grpc
import pytest

from conftest import build_dir, slow, wait_until
from test_gcs import JOB, NODE, TOKEN, first, gcs, message, parse, served  # fixtures too

CONTROL = "/ray.rpc.ControlPlanePubSubGcsService/"
LOGS = "/ray.rpc.ObservabilityPubSubService/"
JOBS, NODES, ERRORS, LOG, USAGE = 3, 4, 6, 7, 8
BODY = {JOBS: 7, NODES: 8, ERRORS: 10, LOG: 11, USAGE: 12}
RIGHT = [("authorization", f"Bearer {TOKEN}")]


class Subscriber:
    """As Ray's clients: subscribes, then polls again and again, saying what it has heard and of whom."""

    def __init__(self, server, service=CONTROL, name=None):
        self.gcs, self.service, self.id = server, service, name or os.urandom(28)
        self.publisher, self.heard, self.dropped = b"", 0, 0

    def command(self, *channels, kind=4, key=b"", **options):
        commands = [(2, message((1, c), (2, key), (kind, b""))) for c in channels]
        self.gcs.call(self.service + "GcsSubscriberCommandBatch", message((1, self.id), *commands), **options)
        return self

    def request(self):
        return message((1, self.id), (2, self.heard), (3, self.publisher))

    def begin(self, timeout=60):
        return self.gcs.default.unary_unary(self.service + "GcsSubscriberPoll").future(
            self.request(), timeout=timeout * slow(), metadata=RIGHT, wait_for_ready=True)

    def hold(self):
        """A poll that the GCS holds: of two, it sends one home."""
        polls = [self.begin(), self.begin()]
        wait_until(lambda: any(p.done() for p in polls), 20 * slow())
        assert self.take(polls.pop(0 if polls[0].done() else 1).result()) == []
        return polls[0]

    def take(self, reply):
        """[(channel, key, body)] of an answer."""
        m, messages = parse(reply), []
        if m[2][0] != self.publisher:
            self.publisher, self.heard = m[2][0], 0
        for one in m.get(1, []):
            sequence = first(one, 14, 0)
            assert sequence > self.heard
            self.heard = sequence
            channel = first(one, 1, 0)
            messages.append((channel, first(one, 2), first(one, BODY[channel])))
        self.dropped = first(reply, 101, 0)
        return messages

    def poll(self):
        return self.take(self.begin().result())

    def hear(self, n):
        """The next n messages."""
        messages = []
        while len(messages) < n:
            messages += self.poll()
        assert len(messages) == n
        return messages


def node_news(messages):
    return [(key[0], first(body, 7, 0) == 0) for channel, key, body in messages if channel == NODES]


def job_news(messages):
    return [(key[0], first(body, 2, 0) == 0) for channel, key, body in messages if channel == JOBS]


def leave(server, number):
    server.call(NODE + "UnregisterNode", message((1, bytes([number] * 28))))


def publish(server, channel, key, body, **options):
    return server.call(LOGS + "GcsPublish", message((1, message((1, channel), (2, key), (BODY[channel], body)))), **options)


# --- what the GCS tells ---

def test_nodes_and_jobs_are_heard_once_and_in_order(served):
    all_news, of_two = Subscriber(served).command(NODES, JOBS), Subscriber(served).command(NODES, key=b"\2" * 28)
    poll = all_news.begin()
    served.register(1)
    assert node_news(all_news.take(poll.result())) == [(1, True)]
    numbers = {n: first(served.register(n), 100) for n in (1, 2, 3)}  # 1 again: no news
    served.call(JOB + "AddJob", message((1, message((9, "\udcff of 3".encode(errors="surrogateescape")), (100, numbers[3])))))
    served.call(JOB + "AddJob", message((1, message((9, "of nobody")))))
    for _ in range(2):  # the first answer may have been lost
        served.call(JOB + "AddJob", message((1, message((1, b"\x09\0\0\0"), (9, "numbered")))))
    for _ in range(2):
        served.call(JOB + "MarkJobFinished", message((1, b"\x02\0\0\0")))
        leave(served, 2)
    leave(served, 3)  # its job ends with it
    messages = all_news.hear(9)
    assert node_news(messages) == [(2, True), (3, True), (2, False), (3, False)]
    assert job_news(messages) == [(1, True), (2, True), (9, True), (2, False), (1, False)]
    assert [body for channel, key, body in messages if channel == JOBS and key[0] == 1][0].find(b"? of 3") > 0
    gone = [body for channel, key, body in messages if channel == NODES and key[0] == 3][1]
    assert first(gone, 12) == b"node3" and first(gone, 101) == b"it said good-bye"
    assert node_news(of_two.hear(2)) == [(2, True), (2, False)]
    served.register(4)
    assert node_news(all_news.poll()) == [(4, True)]  # and nothing came between


def test_inv_36_nothing_is_heard_that_could_be_forgotten(served):
    listener = Subscriber(served).command(NODES, JOBS)
    served.kill(served.redis)
    poll = listener.hold()
    with pytest.raises(grpc.RpcError):
        served.register(1, timeout=0.5)
    assert not poll.done()
    served.start_redis()
    assert node_news(listener.take(poll.result())) == [(1, True)]


def test_a_killed_gcs_is_another_publisher(served):
    listener = Subscriber(served).command(NODES)
    served.register(1)
    served.register(2)
    served.call(JOB + "AddJob", message((1, message((9, "of the former")))))
    assert node_news(listener.hear(2)) == [(1, True), (2, True)]
    former = listener.publisher
    poll = listener.hold()
    served.kill(served.server)
    with pytest.raises(grpc.RpcError):
        poll.result()
    served.start()
    assert listener.poll() == []  # at once: it knows nothing of this subscriber
    assert listener.publisher not in (former, b"") and listener.heard == 0
    listener.command(NODES, JOBS)
    assert served.nodes() == {1: True, 2: True}
    served.call(JOB + "MarkJobFinished", message((1, b"\x01\0\0\0")))
    leave(served, 1)
    messages = listener.hear(2)
    assert job_news(messages) == [(1, False)] and node_news(messages) == [(1, False)]


# --- polls ---

def test_a_second_poll_replaces_the_first(served):
    listener = Subscriber(served).command(NODES)
    polls = [listener.begin() for _ in range(5)]
    wait_until(lambda: sum(p.done() for p in polls) == 4, 20 * slow())
    last = [p for p in polls if not p.done()][0]
    assert [listener.take(p.result()) for p in polls if p is not last] == [[], [], [], []]
    served.register(1)
    assert node_news(listener.take(last.result())) == [(1, True)]


def test_what_was_told_to_nobody_is_told_again(served):
    listener = Subscriber(served).command(NODES)
    served.register(1)
    lost = listener.begin()
    assert lost.result()  # and not taken
    assert node_news(listener.poll()) == [(1, True)]
    listener.hold().cancel()
    served.register(2)
    assert node_news(listener.hear(1)) == [(2, True)]
    other = Subscriber(served).command(NODES).command(NODES, kind=3)  # it wants nothing any more
    other.publisher = listener.publisher
    assert served.error(CONTROL + "GcsSubscriberPoll", other.request())[0] == grpc.StatusCode.NOT_FOUND


def test_who_does_not_poll_is_forgotten(gcs):
    gcs.start("--memory", "--subscriber-timeout-ms=300", redis=False)
    silent = Subscriber(gcs)
    silent.publisher = b"another"
    assert silent.poll() == []
    silent.command(NODES)
    wait_until(lambda: "subscribers_forgotten" in gcs.log(), 20 * slow())
    code, text = gcs.error(CONTROL + "GcsSubscriberPoll", silent.request())
    assert code == grpc.StatusCode.NOT_FOUND and "subscribe again" in text
    assert Subscriber(gcs).command(NODES).poll() == []  # a poll is held no longer than that


def test_sigterm_ends_it_with_polls_open(served):
    polls = [Subscriber(served, service).command(channel).hold() for service, channel in ((CONTROL, NODES), (LOGS, LOG))]
    served.server.send_signal(signal.SIGTERM)
    assert served.server.wait(30 * slow()) == 0, served.log()
    for poll in polls:
        assert poll.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


# --- what callers tell each other ---

def test_errors_and_logs_pass_as_they_came(served):
    listener, of_job = Subscriber(served, LOGS).command(ERRORS, LOG, USAGE), Subscriber(served, LOGS).command(ERRORS, key=b"01000000")
    error = message((1, b"\1\0\0\0"), (2, "worker_died"), (3, "été")) + b"\x21" + struct.pack("<d", 1.5)
    log = message((1, "10.0.0.1"), (2, "77"), (5, b"a\0b"), (5, ""), (90, "of a later release"))
    usage = message((1, '{"cpu": 1}'))
    publish(served, ERRORS, b"x", error)
    publish(served, LOG, b"01000000", log)
    publish(served, USAGE, b"RAY_REPORTER:1", usage)
    publish(served, LOG, b"", b"")
    served.call(LOGS + "ReportJobError", message((1, error)))
    assert listener.hear(5) == [(ERRORS, b"x", error), (LOG, b"01000000", log), (USAGE, b"RAY_REPORTER:1", usage),
                                (LOG, b"", b""), (ERRORS, b"01000000", error)]
    assert of_job.hear(1) == [(ERRORS, b"01000000", error)]


def test_a_slow_subscriber_loses_the_oldest_and_is_told(gcs):
    gcs.start_redis()
    gcs.start("--subscriber-bytes=100000")
    slow_one, quick = Subscriber(gcs, LOGS).command(LOG), Subscriber(gcs, LOGS).command(LOG)
    control = Subscriber(gcs, CONTROL, slow_one.id).command(NODES)
    gcs.register(1)
    for i in range(200):
        publish(gcs, LOG, b"", message((2, str(i)), (5, "x" * 10000)))
        assert [first(body, 2) for _, _, body in quick.hear(1)] == [b"%d" % i]
    assert quick.dropped == 0
    left = [int(first(body, 2)) for _, _, body in slow_one.poll()]
    assert left == list(range(200 - len(left), 200)) and 8 <= len(left) <= 10
    assert slow_one.dropped == 200 - len(left)
    assert node_news(control.hear(1)) == [(1, True)]  # logs take no node's news away
    publish(gcs, LOG, b"", message((2, "after")))
    assert [first(body, 2) for _, _, body in slow_one.hear(1)] == [b"after"]


# --- ray list --watch ---

class Watch:
    """`ray list` that watches: what it said, line by line."""

    def __init__(self, server, *arguments):
        self.path = server.dir / f"watch-{arguments[0]}"
        self.process = subprocess.Popen(
            [build_dir() / "bin/ray", "list", *arguments, "--watch", f"--address=127.0.0.1:{server.port}"],
            env=dict(os.environ, RAY_AUTH_TOKEN=TOKEN), stdout=open(self.path, "wb"), stderr=subprocess.PIPE)
        self.n = 0

    def next(self, n=1):
        """The next n lines; no more than that are there."""
        wait_until(lambda: self.path.read_text().count("\n") >= self.n + n, 30 * slow())
        lines = self.path.read_text().splitlines()[self.n:]
        self.n += n
        assert len(lines) == n
        return lines

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def test_changes_are_printed_as_they_come(served):
    served.register(1)
    nodes, jobs = Watch(served, "nodes"), Watch(served, "jobs", "--format=json")
    try:
        head, one = nodes.next(2)
        assert head.startswith("NODE_ID") and "node1" in one and "ALIVE" in one
        served.register(2)
        assert re.fullmatch(r"1970-01-01 .*  (02){28}  10.0.0.1  node2  ALIVE", nodes.next()[0])
        leave(served, 2)
        assert re.fullmatch(r"20.*  (02){28}  10.0.0.1  node2  DEAD  it said good-bye", nodes.next()[0])
        served.call(JOB + "AddJob", message((1, message((9, "wordcount")))))
        job = json.loads(jobs.next()[0])
        assert (job["job_id"], job["status"], job["entrypoint"]) == ("01000000", "RUNNING", "wordcount")
        for _ in range(2):
            served.kill(served.server)
            served.start()
        leave(served, 1)
        served.call(JOB + "MarkJobFinished", message((1, b"\x01\0\0\0")))
        assert "node1  DEAD" in nodes.next()[0] and json.loads(jobs.next()[0])["status"] == "FINISHED"
        served.register(3)
        assert "node3  ALIVE" in nodes.next()[0]  # and nothing twice
    finally:
        nodes.end()
        jobs.end()


def test_a_watch_ends_with_the_cluster(gcs):
    gcs.start("--memory", redis=False)
    nodes = Watch(gcs, "nodes", "--timeout=0.5")
    try:
        nodes.next()
        gcs.kill(gcs.server)
        assert nodes.process.wait(30 * slow()) == 1
        assert b"no GCS answers at 127.0.0.1" in nodes.process.stderr.read()
    finally:
        nodes.end()
    refused = subprocess.run([build_dir() / "bin/ray", "list", "workers", "--watch"], capture_output=True, check=False)
    assert refused.returncode == 2 and b"workers cannot be watched" in refused.stderr


# --- bad input ---

def test_requests_that_cannot_be(served):
    listener = Subscriber(served, LOGS).command(ERRORS)

    def refused(method, request, *words):
        code, text = served.error(method, request)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and all(w in text for w in words), text

    def command(channel, *kind, key=b""):
        return message((1, listener.id), (2, message((1, ERRORS), (2, b"k"), (4, b""))), (2, message((1, channel), (2, key), *kind)))

    def publication(channel, body, key=b"", field=None):
        good = message((1, ERRORS), (BODY[ERRORS], message((3, "good"))))
        return message((1, good), (1, message((1, channel), (2, key), (field or BODY.get(channel, 10), body))))
    seed = random.Random(5)
    for service in (CONTROL, LOGS):
        for name in ("GcsPublish", "GcsSubscriberPoll", "GcsSubscriberCommandBatch"):
            for request in (b"\xff" * 40, b"\x0a\x7f", seed.randbytes(500)):
                refused(service + name, request)
        for who in (b"", b"x" * 27, b"x" * 29):
            refused(service + "GcsSubscriberPoll", message((1, who)), "28 bytes")
            refused(service + "GcsSubscriberCommandBatch", message((1, who)), "28 bytes")
    commands = LOGS + "GcsSubscriberCommandBatch"
    refused(commands, command(NODES, (4, b"")), "GCS_NODE_INFO_CHANNEL", "no channel of Observability")
    refused(CONTROL + "GcsSubscriberCommandBatch", command(NODES, (4, b"")), "RAY_ERROR_INFO_CHANNEL", "no channel of Control")
    refused(CONTROL + "GcsSubscriberCommandBatch", message((1, listener.id), (2, message((1, 2), (4, b"")))), "nothing is published")
    for channel in (0, 1, 15, 16, 1 << 20, (1 << 64) - 1):
        refused(commands, command(channel, (4, b"")), "no channel")
        refused(LOGS + "GcsPublish", publication(channel, b""), "no channel")
    refused(commands, command(LOG), "to subscribe or to unsubscribe")
    refused(commands, command(LOG, (3, b""), (4, b"")), "to subscribe or to unsubscribe")
    refused(commands, command(LOG, (4, b""), key=b"k" * 257), "256 bytes")
    refused(CONTROL + "GcsPublish", message((1, message((1, NODES), (BODY[NODES], b"")))), "only the GCS")
    refused(LOGS + "GcsPublish", publication(ERRORS, b"\xff" * 9), "no ErrorTableData")
    for text in (b"\xff", b"cut \xe2\x82", b"\0\xff", b"\xed\xa0\x80"):
        refused(LOGS + "GcsPublish", publication(ERRORS, message((3, text))), "no UTF-8")
        refused(LOGS + "GcsPublish", publication(LOG, message((5, "fine"), (5, text))), "no UTF-8")
        refused(LOGS + "ReportJobError", message((1, message((1, b"\1\0\0\0"), (3, text.replace(b"\0", b""))))), "no UTF-8")
    refused(LOGS + "GcsPublish", publication(ERRORS, message((3, "x" * (1 << 20)))), "1048576 bytes")
    refused(LOGS + "GcsPublish", publication(ERRORS, b"", key=b"k" * 257), "256")
    refused(LOGS + "ReportJobError", b"", "four bytes")
    refused(LOGS + "ReportJobError", message((1, message((1, b"abc")))), "four bytes")
    listener.publisher = b"another"
    assert listener.poll() == []
    for heard in (1, (1 << 63) - 1, (1 << 64) - 1):
        listener.heard = heard
        refused(LOGS + "GcsSubscriberPoll", listener.request(), "never published")
    listener.heard = 0
    publish(served, ERRORS, b"", message((3, "after all")))
    assert [first(body, 3) for _, _, body in listener.hear(1)] == [b"after all"]  # no "good" of a request that was refused
