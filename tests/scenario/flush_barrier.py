#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A flush between checkpoint-begin and cut: answered at once, its flush of the disk begins, and no later write, to
any disk of the group, reaches a disk before it has ended (docs/consistency.md, 16).  The disks are served by nbdkit's
eval plugin, whose flush takes a second and whose log shows the order in which things reach them.
usage: tests/scenario/flush_barrier.py BUILD_DIR"""
import os
import random
import subprocess
import sys
import tempfile
import time

import nbd

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "docs", "examples"))
import vmm  # noqa: E402

FLUSH = 1.0  # seconds


class Test:
    def __init__(self, build, folder):
        self.tandem = os.path.realpath(os.path.join(build, "tandem"))
        self.folder = folder
        self.log = os.path.join(folder, "order.log")
        self.processes = []

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def spawn(self, name, *command):
        with open(self.path(name + ".log"), "ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def disk(self, name):
        """A disk that writes down what reaches it."""
        image, socket = self.path(name + ".img"), self.path(name + ".sock")
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        self.spawn(name, "nbdkit", "-f", "-U", socket, "eval",
                   "thread_model=echo parallel", "get_size=echo 1048576", "can_write=exit 0", "can_flush=exit 0",
                   "can_fua=echo emulate", "can_multi_conn=exit 0",
                   "pread=dd if=%s iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none" % image,
                   "pwrite=echo %s write >>%s; dd of=%s oflag=seek_bytes seek=$4 conv=notrunc status=none" %
                   (name, self.log, image),
                   "flush=echo %s flush begins >>%s; sleep %s; if [ -e %s ]; then echo EIO >&2; exit 1; fi; "
                   "echo %s flush ends >>%s" % (name, self.log, FLUSH, self.path("broken"), name, self.log))
        self.wait(lambda: os.path.exists(socket), "nbdkit for %s" % name)
        return "nbd+unix:///?socket=" + socket

    @staticmethod
    def wait(condition, what):
        end = time.monotonic() + 20
        while not condition():
            if time.monotonic() > end:
                sys.exit("not ok - no %s" % what)
            time.sleep(0.01)

    def order(self):
        try:
            with open(self.log) as file:
                return [line.strip() for line in file]
        except FileNotFoundError:
            return []

    def start(self):
        port = random.randint(20000, 29000)
        conf = self.path("g.conf")
        disks = {"alpha": {d: self.disk(d) for d in ("vda", "vdb")}, "beta": {}}
        for d in ("vda", "vdb"):
            disks["beta"][d] = self.path("beta-%s.img" % d)
            with open(disks["beta"][d], "wb") as file:
                file.truncate(1 << 20)
        with open(conf, "w") as file:
            file.write("[group]\nname = g\njournal-size = 64M\n[guest]\nmemory = 1M\n")
            for i, node in enumerate(("alpha", "beta")):
                file.write("[node %s]\nlink = 127.0.0.1:%d\nstate-dir = %s\nrun-dir = %s\n" %
                           (node, port + i, self.path(node, "state"), self.path(node, "run")))
                for name, backing in disks[node].items():
                    file.write("disk.%s = %s\n" % (name, backing))
        for node in ("alpha", "beta"):
            subprocess.run([self.tandem, "init", conf, "--node", node], check=True, stdout=subprocess.DEVNULL)
        self.spawn("beta", self.tandem, "secondary", conf, "--node", "beta", "--guest")
        self.spawn("alpha", self.tandem, "primary", conf, "--node", "alpha", "--guest")
        self.wait(lambda: os.path.exists(self.path("alpha", "run", "control.sock")), "control socket")
        self.control = vmm.Control(self.path("alpha", "run"))
        self.wait(lambda: vmm.ready(self.control), "session")

    def open(self, name):
        handle = nbd.NBD()
        handle.set_export_name(name)
        handle.connect_unix(self.path("alpha", "run", "nbd.sock"))
        return handle

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check(condition, what, test):
    if not condition:
        sys.exit("not ok - %s; order: %s" % (what, test.order()))
    print("ok - " + what)


def run(test):
    test.start()
    vda, vdb = test.open("vda"), test.open("vdb")
    vda.pwrite(b"1" * 4096, 0)

    began = time.monotonic()
    vda.flush()
    check(time.monotonic() - began >= FLUSH, "outside of a checkpoint a flush waits for the disk", test)

    os.unlink(test.log)
    test.control.call("checkpoint-begin")
    began = time.monotonic()
    vda.flush()
    check(time.monotonic() - began < FLUSH / 2, "inside it is answered at once", test)
    cookies = [(d, d.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"2" * 4096)), 0)) for d in (vda, vdb)]
    test.control.call("cut")
    for disk, cookie in cookies:
        test.wait(lambda d=disk, c=cookie: d.poll(100) >= 0 and d.aio_command_completed(c), "reply to a write")
    order = test.order()
    check(order[:2] == ["vda flush begins", "vda flush ends"] and sorted(order[2:]) == ["vda write", "vdb write"],
          "no write reached a disk before the flush had ended, on either disk", test)

    test.control.call("checkpoint-begin")
    open(test.path("broken"), "w").close()
    vdb.flush()
    vdb.pwrite(b"3" * 4096, 0)  # behind the barrier: it has failed when this is answered
    os.unlink(test.path("broken"))
    test.control.call("abandon")  # of the session's first checkpoint: the session begins anew
    try:
        vdb.flush()
        check(False, "a flush that failed is reported by the next one", test)
    except nbd.Error:
        check(True, "a flush that failed is reported by the next one", test)
    vdb.flush()

    test.wait(lambda: vmm.ready(test.control), "second session")
    other = vmm.Control(test.path("alpha", "run"))
    other.call("checkpoint-begin")
    other.socket.close()
    test.wait(lambda: not test.control.call("query-status")["checkpoint"]["begun"],
              "end of a checkpoint whose controller has gone")
    began = time.monotonic()
    vda.flush()
    check(time.monotonic() - began >= FLUSH, "a controller that has gone leaves no early answers behind", test)


def main():
    with tempfile.TemporaryDirectory(prefix="tandem.") as folder:
        test = Test(sys.argv[1], folder)
        try:
            run(test)
        except SystemExit:
            for name in os.listdir(folder):
                if name.endswith(".log"):
                    print("== " + name, open(os.path.join(folder, name)).read()[-2000:], sep="\n")
            raise
        finally:
            test.stop()
    print("all good")


if __name__ == "__main__":
    main()
