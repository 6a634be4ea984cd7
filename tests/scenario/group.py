# SPDX-License-Identifier: LGPL-2.1-or-later
"""A group on this machine for scenario tests: files, nodes, the command line, NBD connections, and a disk of random
writes whose content is known at every moment."""
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import nbd

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from node import Control, Refused  # noqa: E402

MIB = 1 << 20
SECONDS = 60  # no event takes as long, also on a busy machine


def sanitizer_env(build):
    """TANDEM_TEST_SANITIZER=thread or address, with a build of that kind: as in tests/crash/crash.py."""
    name = os.environ.get("TANDEM_TEST_SANITIZER")
    if not name:
        return None
    library = subprocess.run(["gcc", "-print-file-name=lib%s.so" % ("tsan" if name == "thread" else "asan")],
                             check=True, capture_output=True, text=True).stdout.strip()
    shim = os.path.realpath(os.path.join(build, "tests/crash/tandem-plain-strerror.so"))
    return dict(os.environ, LD_PRELOAD="%s:%s" % (shim, os.path.realpath(library)),
                TSAN_OPTIONS="halt_on_error=0 second_deadlock_stack=1",
                # leaks: nbdkit does not free the connections that are open when it ends
                ASAN_OPTIONS="detect_leaks=0 verify_asan_link_order=0", UBSAN_OPTIONS="print_stacktrace=1")


class Failure(Exception):
    """What a test has found; the text is the report."""


def need(condition, *what):
    if not condition:
        raise Failure(" ".join(str(w) for w in what))


def ok(text):
    print("ok -", text, flush=True)


def until(what, fn, seconds=SECONDS):
    """The first true value of fn(), which is asked again and again."""
    end = time.monotonic() + seconds
    while True:
        value = fn()
        if value:
            return value
        need(time.monotonic() < end, "timeout:", what)
        time.sleep(0.02)


def pattern(number, off, length):
    """Bytes that depend on number, with a prime period, so that a block that is lost or misplaced shows."""
    unit = bytes((number * 7 + i * 13 + (number >> 8)) & 0xff for i in range(251))
    at = (number * 31 + off) % 251
    return (unit * (length // 251 + 3))[at:at + length]


class Group:
    def __init__(self, build, keys="", nodes=("alpha", "beta"), disks=("vda",), size=64 * MIB, node_keys=None,
                 backing=None):
        self.tandem = os.path.realpath(os.path.join(build, "tandem"))
        self.dir = tempfile.mkdtemp(prefix="tandem.", dir=os.environ.get("TMPDIR", "/tmp"))
        self.disks, self.size, self.procs, self.others = disks, size, {}, []
        self.env = sanitizer_env(build)
        self.conf = os.path.join(self.dir, "g.conf")
        port = random.randrange(20000, 32000)
        text = "[group]\nname = g\n" + keys
        for i, node in enumerate(nodes):
            os.mkdir(self.path(node))
            text += "[node %s]\nlink = 127.0.0.1:%d\nstate-dir = %s\nrun-dir = %s\n" % (
                node, port + i, self.path(node, "state"), self.path(node, "run"))
            for disk in disks:
                with open(self.image(node, disk), "wb") as f:
                    f.truncate(size)
                text += "disk.%s = %s\n" % (disk, (backing or {}).get((node, disk), self.image(node, disk)))
            text += (node_keys or {}).get(node, "")
        with open(self.conf, "w", encoding="ascii") as f:
            f.write(text)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def image(self, node, disk="vda"):
        return self.path(node, disk + ".img")

    def cli(self, *args, node, check=True):
        """Standard output, or with check=False (exit code, standard error)."""
        p = subprocess.run([self.tandem, args[0], self.conf, "--node", node, *args[1:]], text=True, timeout=SECONDS,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if not check:
            return p.returncode, p.stderr
        need(p.returncode == 0, "tandem", *args, "on", node, "exits with", p.returncode, p.stderr)
        return p.stdout

    def init(self, *nodes):
        for node in nodes:
            self.cli("init", node=node)

    def start(self, node, role, *arguments):
        log = open(self.path(node + ".log"), "ab")  # pylint: disable=consider-using-with
        self.procs[node] = subprocess.Popen([self.tandem, role, self.conf, "--node", node, *arguments], stdout=log, stderr=log,
                                            env=self.env)
        until("control socket of " + node, lambda: self.answers(node))

    def answers(self, node):
        need(self.procs[node].poll() is None, node, "has ended:", self.log(node)[-2000:])
        try:
            self.control(node).close()
            return True
        except OSError:
            return False

    def log(self, node):
        with open(self.path(node + ".log"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def control(self, node):
        return Control(self.path(node, "run", "control.sock"))

    def ask(self, node, command, **arguments):
        with self.control(node) as c:
            return c.execute(command, **arguments)

    def status(self, node):
        return self.ask(node, "query-status")

    def until_state(self, node, state):
        return until("%s becomes %s" % (node, state),
                     lambda: (lambda s: s if s["state"] == state else None)(self.status(node)))

    def end(self, node, sig=signal.SIGTERM):
        p = self.procs.pop(node)
        p.send_signal(sig)
        p.wait(SECONDS)

    def kill(self, node):
        self.end(node, signal.SIGKILL)

    def uri(self, node, export="vda"):
        return "nbd+unix:///%s?socket=%s" % (export, self.path(node, "run", "nbd.sock"))

    def connect(self, node, export="vda"):
        h = nbd.NBD()
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.connect_uri(self.uri(node, export))
        return h

    def read(self, node, export="vda"):
        """The whole content, over a connection of its own."""
        h = self.connect(node, export)
        try:
            return read_all(h)
        finally:
            h.shutdown()

    def daemon(self, *args, name):
        log = open(self.path(name + ".log"), "ab")  # pylint: disable=consider-using-with
        p = subprocess.Popen(args, stdout=log, stderr=log)
        self.others.append(p)
        return p

    def procs_logs(self):
        return [n for n in os.listdir(self.dir) if n.endswith(".log")]

    def close(self, failed=False):
        for p in list(self.procs.values()) + self.others:
            if p.poll() is None:
                p.terminate()
        for p in list(self.procs.values()) + self.others:
            try:
                p.wait(SECONDS)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        if failed:
            for name in sorted(os.listdir(self.dir)):
                if name.endswith(".log"):
                    with open(self.path(name), encoding="utf-8", errors="replace") as f:
                        print("--- %s\n%s" % (name, f.read()[-6000:]))
        for name in self.procs_logs():
            with open(self.path(name), encoding="utf-8", errors="replace") as f:
                found = re.search(r"(WARNING: ThreadSanitizer|ERROR: (Address|Leak)Sanitizer|runtime error:)(.|\n){0,4000}",
                                  f.read())
            need(not found or failed, "a report of a sanitizer:", found and found[0])
        logs = os.environ.get("TANDEM_TEST_LOGS")
        if logs:
            os.makedirs(logs, exist_ok=True)
            for name in os.listdir(self.dir):
                if name.endswith(".log"):
                    shutil.copy(self.path(name), logs)
        shutil.rmtree(self.dir, ignore_errors=True)


def read_all(h):
    data = bytearray()
    while len(data) < h.get_size():
        data += h.pread(min(MIB, h.get_size() - len(data)), len(data))
    return bytes(data)


def nbd_errno(fn, *args):
    """The errno with which a request fails; 0 = it does not."""
    try:
        fn(*args)
        return 0
    except nbd.Error as e:
        return e.errnum or errno.EIO


class Writer(threading.Thread):
    """Random writes, zeroes and trims over one connection; content is what the disk must hold when it is paused."""

    def __init__(self, uri, size, seed, content=None, longest=256 * 1024):
        super().__init__(daemon=True)
        self.nbd = nbd.NBD()
        self.nbd.connect_uri(uri)
        self.rng = random.Random(seed)
        self.size, self.longest = size, longest
        self.content = bytearray(content if content is not None else bytes(size))
        self.lock = threading.Lock()  # held over each request: who holds it has paused the writer
        self.ending, self.error, self.count = False, None, 0
        self.allowed = 0  # it stops at that count

    def one(self):
        length = self.rng.choice((512, 4096, 4096, 65536, self.rng.randrange(1, self.longest // 512) * 512))
        off = self.rng.randrange((self.size - length) // 512 + 1) * 512
        kind = self.rng.randrange(10)
        if kind == 0:
            self.nbd.zero(length, off)
        elif kind == 1:
            # what a trim leaves is not said: only of a disk that says so; zeroes with permission to unmap
            self.nbd.zero(length, off, nbd.CMD_FLAG_NO_HOLE)
        else:
            data = pattern(self.count + 1, off, length)
            self.nbd.pwrite(data, off, nbd.CMD_FLAG_FUA if kind == 2 else 0)
            self.content[off:off + length] = data
        if kind < 2:
            self.content[off:off + length] = bytes(length)
        self.count += 1

    def run(self):
        try:
            while not self.ending:
                with self.lock:
                    idle = self.count >= self.allowed
                    if not idle:
                        self.one()
                time.sleep(0.002 if idle else 0)  # lets who waits for the lock have it
        except nbd.Error as e:
            self.error = e

    def wait_writes(self, n, beyond=20):
        """Returns when n more are done; some go on afterwards."""
        want = self.count + n
        self.allowed = want + beyond
        until("%d more writes" % n, lambda: self.count >= want or self.error)
        need(not self.error, "the writer failed:", self.error)

    def stop(self):
        self.ending = True
        self.join()


def differ(a, b):
    """None, or where two contents differ."""
    if a == b:
        return None
    if len(a) != len(b):
        return "sizes %d and %d" % (len(a), len(b))
    blocks = [i for i in range(0, len(a), 4096) if a[i:i + 4096] != b[i:i + 4096]]
    return "%d blocks differ, the first at %d" % (len(blocks), blocks[0])


def main(run):
    """Runs run(build, seed) as a test program does: usage, seed, exit code."""
    if not 2 <= len(sys.argv) <= 3:
        print("usage:", sys.argv[0], "BUILD_DIR [SEED]", file=sys.stderr)
        sys.exit(2)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 31)
    print("# seed", seed, flush=True)
    random.seed()
    try:
        run(sys.argv[1], seed)
    except (Failure, Refused, nbd.Error, OSError, json.JSONDecodeError, ConnectionError) as e:
        print("not ok -", type(e).__name__, e)
        sys.exit(1)
