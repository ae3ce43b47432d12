"""Clients of our own: some that ask on time, crowds that come at once, and those that stay without asking."""

import multiprocessing
import random
import select
import socket
import threading
import time
from collections import namedtuple

from bench import Wrong
from load import PATIENCE

Came = namedtuple("Came", "first last")


def _take(connection, size):
    """One answer, with so many bytes."""
    answer = b""
    while (head := answer.find(b"\r\n\r\n")) < 0 or len(answer) < head + 4 + size:
        piece = connection.recv(65536)
        answer += piece
        if not piece or not answer.startswith(b"HTTP/1.1 200 "[: len(answer)]):
            raise Wrong(f"no whole answer: {answer[:200]!r}")
    if len(answer) > head + 4 + size:
        raise Wrong(f"an answer is too long: {answer[:200]!r}")


class Probe:
    """A few clients who ask at random moments, however long answers take. A time is counted from when the request
    should have left, so that whoever waits for one answer has the next one late."""

    CLIENTS = 8

    def __init__(self, server, path, size, rate, seconds, delay):
        self.times, self.problem = [], None
        self._ask = server.address.split(":"), path, size
        begin = time.monotonic() + delay
        self._threads = []
        for _ in range(self.CLIENTS):
            moments, at = [], begin
            while (at := at + random.expovariate(rate / self.CLIENTS)) < begin + seconds:
                moments.append(at)
            self._threads.append(threading.Thread(target=self._client, args=(moments,), daemon=True))
        for thread in self._threads:
            thread.start()

    def _client(self, moments):
        try:
            (host, port), path, size = self._ask
            request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                for moment in moments:
                    time.sleep(max(0.0, moment - time.monotonic()))
                    connection.sendall(request)
                    _take(connection, size)
                    self.times.append(time.monotonic() - moment)
        except (OSError, Wrong) as error:
            self.problem = error

    def end(self):
        """The seconds of each."""
        for thread in self._threads:
            thread.join(PATIENCE)
        if self.problem or not self.times:
            raise Wrong(f"a probe of {self._ask[0]}: {self.problem or 'no answer'}")
        return self.times


def crowd(server, asked, patience=PATIENCE, partly=False):
    """All connect and ask at once, each for one of `asked`: a path, the bytes that its answer begins with, and how
    many there are. Gives the seconds to the first and to the last byte of each. With `partly`, those that had no
    whole answer within `patience` are left out; otherwise that is an error."""
    processes = 2
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes + 1)
    crews = []
    for number in range(processes):
        ours, theirs = context.Pipe(False)
        share = asked[number::processes]
        crew = context.Process(target=_crew, args=(server.address, share, patience, barrier, theirs), daemon=True)
        crew.start()
        crews.append((crew, ours))
    barrier.wait(PATIENCE)
    came = []
    for crew, ours in crews:
        if not ours.poll(patience + PATIENCE):
            raise Wrong(f"a crowd at {server.name} does not come back")
        problem, times = ours.recv()
        crew.join(PATIENCE)
        if problem:
            raise Wrong(f"a crowd at {server.name}: {problem}")
        came += times
    server.must_live()
    if len(came) < len(asked) and not partly:
        raise Wrong(f"{server.name}: {len(came)} of {len(asked)} whole answers within {patience} s")
    return came


def _crew(address, asked, patience, barrier, pipe):
    host, port = address.split(":")
    buffer = bytearray(256 << 10)
    view, waiting, came = memoryview(buffer), {}, []
    poll = select.epoll()
    barrier.wait(PATIENCE)
    begun = time.monotonic()
    end = begun + patience
    try:
        for path, start, size in asked:
            connection = socket.create_connection((host, int(port)), timeout=patience)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            connection.setblocking(False)
            # Until the header is there, `left` is unknown.
            waiting[connection.fileno()] = [connection, start, size, b"", None, None]
            poll.register(connection, select.EPOLLIN)
        while waiting and (rest := end - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(rest):
                client = waiting[descriptor]
                try:
                    got = client[0].recv_into(buffer)
                except BlockingIOError:
                    continue
                if not got:
                    raise Wrong(f"an answer ended after {client[3][:200]!r}")
                if client[4] is None:
                    _, start, size, head, _, _ = client
                    client[5] = client[5] or time.monotonic() - begun
                    client[3] = head = head + bytes(view[:got])
                    at = head.find(b"\r\n\r\n") + 4
                    if at < 4 or len(head) < at + len(start):
                        continue
                    if not head.startswith(b"HTTP/1.1 200 ") or head[at : at + len(start)] != start:
                        raise Wrong(f"{head[:400]!r}")
                    client[4] = size - (len(head) - at)
                else:
                    client[4] -= got
                if client[4] < 0:
                    raise Wrong("an answer is too long")
                if client[4] == 0:
                    came.append(Came(client[5], time.monotonic() - begun))
                    client[0].close()
                    del waiting[descriptor]
        pipe.send((None, came))
    except (OSError, Wrong) as error:
        pipe.send((repr(error), came))


class Idle:
    """Connections that have had an answer and stay open, in a process of their own."""

    def __init__(self, server, path, size, number):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        arguments = server.address, path, size, number, theirs
        self._process = context.Process(target=self._hold, args=arguments, daemon=True)
        self._process.start()
        if not self._pipe.poll(PATIENCE):
            raise Wrong(f"{number} connections are not there")
        if problem := self._pipe.recv():
            raise Wrong(f"{number} connections: {problem}")

    @staticmethod
    def _hold(address, path, size, number, pipe):
        host, port = address.split(":")
        request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        held = []
        try:
            for _ in range(number):
                connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
                connection.sendall(request)
                _take(connection, size)
                held.append(connection)
        except (OSError, Wrong) as error:
            pipe.send(f"number {len(held)}: {error!r}")
            return
        pipe.send(None)
        pipe.recv()
        lost = 0
        for connection in held:
            connection.setblocking(False)
            try:
                lost += connection.recv(1) == b""
            except BlockingIOError:
                pass
            except OSError:
                lost += 1
        pipe.send(lost)

    def end(self):
        """How many of them the server has closed meanwhile."""
        self._pipe.send(None)
        if not self._pipe.poll(PATIENCE):
            raise Wrong("the held connections do not come back")
        lost = self._pipe.recv()
        self.close()
        return lost

    def close(self):
        self._process.kill()
        self._process.join()
