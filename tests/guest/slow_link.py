#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A TCP proxy on loopback that passes so many bytes a second towards its target, and all that comes back.
usage: slow_link.py TARGET-PORT RATE-FILE     (prints its own port; RATE-FILE holds the rate, 0 = no limit, and is read again and again)"""
import socket
import sys
import threading
import time


def rate(path):
    try:
        with open(path, encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0


def carry(source, sink, path):
    try:
        while data := source.recv(16384):
            began = time.monotonic()
            sink.sendall(data)
            limit = rate(path) if path else 0
            if limit:
                time.sleep(max(0, len(data) / limit - (time.monotonic() - began)))
    except OSError:
        pass
    for s in (source, sink):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    target, path = int(sys.argv[1]), sys.argv[2]
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", target))
        except OSError:
            client.close()
            continue
        for s in (client, server):
            # what waits in buffers is late, and no test of ours
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=carry, args=(client, server, path), daemon=True).start()
        threading.Thread(target=carry, args=(server, client, None), daemon=True).start()


main()
