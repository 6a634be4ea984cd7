# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two real nodes on this machine: configuration, start, kill, the control socket, a read of a disk.

Each node has a configuration file of its own, in which the other's link is a proxy (proxy.py), so that a test can
cut the link at any byte."""
import json
import os
import signal
import socket
import subprocess
import time

import nbd

import proxy

SECONDS = 60  # no event takes as long, also on a busy machine


class Failure(Exception):
    """What a test has found; the text is the report."""


class Refused(Exception):
    """The node answered with an error."""

    def __init__(self, kind, desc):
        super().__init__("%s: %s" % (kind, desc))
        self.kind = kind


class Control:
    """One connection to a node's control socket (docs/control.md)."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(path)
        self.buffer = b""
        self.greeting = self._read()

    def _read(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the node ended the connection")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def execute(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise Refused(answer["error"]["kind"], answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def wait_event(self, seconds):
        """The next event, or None."""
        self.sock.settimeout(max(seconds, 0.001))
        try:
            return self._read()
        except TimeoutError:
            return None
        finally:
            self.sock.settimeout(SECONDS)


class Node:
    def __init__(self, pair, name, images, backings=None):
        self.pair = pair
        self.name = name
        self.dir = os.path.join(pair.dir, name)
        self.state = os.path.join(self.dir, "state")
        self.run = os.path.join(self.dir, "run")
        self.conf = os.path.join(self.dir, "group.conf")
        self.images = images  # paths
        self.backings = backings or images
        self.process = None
        self.log = os.path.join(pair.logs, name + ".log")
        self.starts = 0

    def socket(self, name):
        return os.path.join(self.run, name)

    def control(self):
        return Control(self.socket("control.sock"))

    def execute(self, command, **arguments):
        with self.control() as c:
            return c.execute(command, **arguments)

    def status(self):
        return self.execute("query-status")

    def init(self, force=False):
        subprocess.run([self.pair.tandem, "init", self.conf, "--node", self.name] +
                       (["--force"] if force else []), check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)

    def start(self, role, env=None, wait=True):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.pair.tandem, role, self.conf, "--node", self.name], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, env={**os.environ, **self.pair.env, **(env or {}),
                                 "TANDEM_RECORD": self.pair.records})
        self.starts += 1
        if wait:
            self.wait_up()

    def wait_up(self):
        """Until it answers; a node that ends instead is a failure, with what it said."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                self.control().close()
                return
            except (OSError, ConnectionError):
                if self.process.poll() is not None:
                    raise Failure("node %s ended with %d: %s" % (self.name, self.process.returncode,
                                                                 self.last_words())) from None
                if time.monotonic() > end:
                    raise Failure("node %s does not answer" % self.name) from None
            time.sleep(0.002)

    def last_words(self):
        try:
            with open(self.log, "rb") as file:
                return file.read()[-1500:].decode("utf-8", "replace")
        except OSError:
            return ""

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
        self.process = None

    def stop(self):
        """In order; returns the exit code."""
        if not self.process:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure("node %s does not end at SIGTERM: %s" % (self.name, self.last_words())) from None
        self.process = None
        return code

    def wait(self, what, check):
        """Until check(status) is true; woken by the node's events."""
        end = time.monotonic() + SECONDS
        with self.control() as c:
            c.execute("events", enable=True)
            while True:
                status = c.execute("query-status")
                if check(status):
                    return status
                if time.monotonic() > end:
                    raise Failure("node %s did not become %s: %s %s" %
                                  (self.name, what, json.dumps(status), self.last_words()))
                c.wait_event(0.1)

    def wait_state(self, *states):
        return self.wait(" or ".join(states), lambda s: s["state"] in states)

    def uri(self, disk):
        return "nbd+unix:///%s?socket=%s" % (disk, self.socket("nbd.sock"))

    def connect(self, disk):
        h = nbd.NBD()
        h.connect_uri(self.uri(disk))
        return h

    def read_disks(self):
        """What the node serves, whole."""
        images = []
        for disk in self.pair.disks:
            h = self.connect(disk)
            size = h.get_size()
            images.append(bytearray(b"".join(h.pread(min(1 << 20, size - at), at)
                                             for at in range(0, size, 1 << 20))))
            h.shutdown()
        return images

    def read_images(self):
        """What the image files hold."""
        images = []
        for path in self.images:
            with open(path, "rb") as file:
                images.append(bytearray(file.read()))
        return images


class Pair:
    """Two nodes, alpha and beta, with the disks vda, vdb, ... of the given sizes."""

    def __init__(self, directory, logs, tandem, sizes, group=None, env=None):
        self.dir = directory
        self.logs = logs
        self.tandem = tandem
        self.env = env or {}
        self.records = os.path.join(directory, "records")
        self.disks = ["vd" + chr(ord("a") + i) for i in range(len(sizes))]
        self.sizes = sizes
        self.group = {"name": "g", "epoch-ms": 10, "journal-size": "64M", "heartbeat-ms": 50, "peer-timeout-ms": 3000,
                      "staging-limit": "16M", "queue-limit": "8M", **(group or {})}
        for path in (logs, self.records):
            os.makedirs(path, exist_ok=True)
        self.nodes = [self._node(name) for name in ("alpha", "beta")]
        self.proxies = [proxy.Proxy(), proxy.Proxy()]  # on the way to that node
        self.ports = [proxy.free_port(), proxy.free_port()]
        for i, node in enumerate(self.nodes):
            self.proxies[i].target = self.ports[i]
            self.write_conf(node)

    def _node(self, name):
        directory = os.path.join(self.dir, name)
        os.makedirs(directory)
        images = []
        for disk, size in zip(self.disks, self.sizes):
            path = os.path.join(directory, disk + ".img")
            with open(path, "wb") as file:
                file.truncate(size)
            images.append(path)
        return Node(self, name, images)

    def write_conf(self, node):
        lines = ["[group]"] + ["%s = %s" % kv for kv in self.group.items()]
        for i, other in enumerate(self.nodes):
            lines += ["[node %s]" % other.name,
                      "link = 127.0.0.1:%d" % (self.ports[i] if other is node else self.proxies[i].port),
                      "state-dir = " + other.state, "run-dir = " + other.run]
            lines += ["disk.%s = %s" % kv for kv in zip(self.disks, other.backings)]
        with open(node.conf, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")

    def other(self, node):
        return self.nodes[1 - self.nodes.index(node)]

    def proxy_to(self, node):
        return self.proxies[self.nodes.index(node)]

    def protect(self, primary):
        """Both nodes run: until epochs are committing."""
        try:
            primary.execute("connect")  # now, not after its pause
        except Refused:
            pass
        return primary.wait_state("protected")

    def close(self):
        for node in self.nodes:
            node.kill()
        for p in self.proxies:
            p.close()
