"""A thin line to a registry: `link.py ADDRESS BYTES_A_SECOND`. All connections together get no more from it."""

import socket
import sys
import threading
import time

# At 20 Mbit/s a piece takes 6.5 ms.
PIECE = 16 << 10
# Seconds for which this program may be late, on a busy machine, without the line being slower for it. It would also hide
# as long a pause of whoever asks, so it is short.
SLACK = 0.01
host, port = sys.argv[1].split(":")
rate = float(sys.argv[2])
lock = threading.Lock()
free_at = 0.0  # when the line has sent all that it was given


def wait_for(size):
    """Until the line has sent `size` bytes more; who comes first is sent first."""
    global free_at
    with lock:
        free_at = max(free_at, time.monotonic() - SLACK) + size / rate
        until = free_at
    time.sleep(max(0.0, until - time.monotonic()))


def carry(source, target, is_thin):
    try:
        while piece := source.recv(PIECE):
            if is_thin:
                wait_for(len(piece))
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def join(client):
    with client, socket.create_connection((host, int(port))) as registry:
        for end in (client, registry):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upward = threading.Thread(target=carry, args=(client, registry, False), daemon=True)
        upward.start()
        carry(registry, client, True)
        upward.join()


with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
    print(listening.getsockname()[1], flush=True)
    while True:
        accepted, _ = listening.accept()
        threading.Thread(target=join, args=(accepted,), daemon=True).start()
