# SPDX-License-Identifier: LGPL-2.1-or-later
"""A TCP proxy on loopback that can cut its connection after any number of bytes in either direction."""
import socket
import struct
import threading


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    """Passes one connection at a time to 127.0.0.1:target."""

    TO_TARGET, FROM_TARGET = 0, 1

    def __init__(self):
        self.target = None
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(8)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Condition()
        self.closed = self.shut = self.stay_shut = False
        self.generation = 0  # of connections
        self.passed = [0, 0]  # bytes of this connection, by direction
        self.total = [0, 0]  # of all connections
        self.limit = [None, None]  # bytes after which it is cut
        self.stalled = [False, False]  # nothing goes that way, nothing is lost
        self.stall_at = [None, None]  # total at which it becomes so
        self.reset = False
        self.half_closed = 0  # directions of this connection
        self.due = 0  # cuts that are decided and not done
        self.cuts = 0
        self.ends = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, direction, count, reset, stay_shut):
        """Cuts when `count` more bytes have passed; with an RST or a FIN; stay_shut: nobody gets in until open()."""
        with self.lock:
            self.limit[direction] = self.passed[direction] + count
            self.reset = reset
            self.stay_shut = stay_shut
            generation = self.cuts
        return generation

    def wait_cut(self, before, seconds):
        with self.lock:
            return self.lock.wait_for(lambda: self.cuts > before, seconds)

    def cut_no_more(self):
        """When this returns the link stands, or has been cut for the last time."""
        with self.lock:
            self.limit = [None, None]
            self.lock.wait_for(lambda: not self.due)

    def stall_after(self, direction, count):
        """It stalls when `count` more bytes have passed, on whatever connections."""
        with self.lock:
            self.stall_at[direction] = self.total[direction] + count

    def wait_stall(self, direction, seconds):
        with self.lock:
            return self.lock.wait_for(lambda: self.stalled[direction], seconds)

    def stall(self, direction, on=True):
        with self.lock:
            self.stalled[direction] = on
            self.lock.notify_all()

    def shut_now(self, reset=True):
        with self.lock:
            self.shut = True
            self.reset = reset
            self._cut()

    def open(self):
        with self.lock:
            self.shut = False

    def close(self):
        self.closed = True
        self.shut_now()
        self.listener.close()

    def _cut(self):
        """Under lock."""
        for s in self.ends:
            try:
                if self.reset:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # With an RST nothing may go out before the close; SHUT_RD wakes the thread that reads.
                s.shutdown(socket.SHUT_RD if self.reset else socket.SHUT_RDWR)
                s.close()
            except OSError:
                pass
        if self.ends:
            self.cuts += 1
        self.ends = []
        self.limit = [None, None]
        self.lock.notify_all()

    def _accept(self):
        while not self.closed:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                shut = self.shut
            server = None
            if not shut:
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    pass
            if not server:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            for s in (client, server):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self._cut()
                self.generation += 1
                self.ends = [client, server]
                self.passed = [0, 0]
                self.half_closed = 0
                generation = self.generation
            for direction, (a, b) in enumerate(((client, server), (server, client))):
                threading.Thread(target=self._pass, args=(generation, direction, a, b), daemon=True).start()

    def _half_closed(self, generation):
        """One direction has ended in order, as TCP has it; false: both have."""
        with self.lock:
            if generation == self.generation:
                self.half_closed += 1
            return generation != self.generation or self.half_closed < 2

    def _pass(self, generation, direction, source, sink):
        while True:
            ended = False
            try:
                data = source.recv(65536)
                ended = not data
            except OSError:
                data = b""
            with self.lock:
                self.lock.wait_for(lambda: not self.stalled[direction] or generation != self.generation or not self.ends)
                if generation != self.generation or not self.ends:
                    return
                limit = self.limit[direction]
                over = limit is not None and self.passed[direction] + len(data) >= limit
                if over:
                    data = data[:limit - self.passed[direction]]
                    self.due += 1
                self.passed[direction] += len(data)
                self.total[direction] += len(data)
                if self.stall_at[direction] is not None and self.total[direction] >= self.stall_at[direction]:
                    self.stalled[direction], self.stall_at[direction] = True, None
                    self.lock.notify_all()
            try:
                if data:
                    sink.sendall(data)
                elif ended and not over:
                    sink.shutdown(socket.SHUT_WR)
            except OSError:
                data, ended = b"", False
            if ended and not over and self._half_closed(generation):
                return
            if over or not data:
                with self.lock:
                    self.due -= over
                    if generation == self.generation and self.ends:
                        self.shut |= over and self.stay_shut
                        self._cut()
                    self.lock.notify_all()
                return
