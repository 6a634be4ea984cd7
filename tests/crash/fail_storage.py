#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage that fails under load: a disk of the secondary (full file system, error of an NBD server), its journal
(write, flush, header), its metadata; a disk of the primary.

Secondary: commits stop, its state is `failed` and says why, the primary goes on without it and says why.  Repaired and
started again, it stands at a committed epoch not older than the newest acknowledged, bit by bit as the stream has it,
and the group gets protected again.
Primary: the client gets the error; what its disk holds then is what the secondary holds.
Output in the manner of TAP."""
import argparse
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import nbd

import oracle
from load import Load
from node import Failure, Pair, Refused, SECONDS

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import recordings  # noqa: E402
from records import Violation  # noqa: E402

SIZES = [3 << 20, (2 << 20) + 1536]
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_REMOUNT = 0x20000, 0x4000, 1 << 18, 32
_libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    pass


def _mount(target, flags, data):
    if _libc.mount(b"tmpfs", target.encode(), b"tmpfs", flags, data.encode()):
        raise Skip("cannot mount a tmpfs: %s" % os.strerror(ctypes.get_errno()))


class NbdServer:
    """nbdkit serving an image that fails while the trigger file exists."""

    def __init__(self, directory, image, trigger, which="pwrite"):
        self.socket = os.path.join(directory, os.path.basename(image) + ".sock")
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-U", self.socket, "--filter=error", "file", image, "error-%s=EIO" % which,
             "error-%s-rate=100%%" % which, "error-%s-file=%s" % (which, trigger)], stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(self.socket)
                    return
                except OSError:
                    if time.monotonic() > end:
                        raise Failure("nbdkit does not answer") from None
                    time.sleep(0.005)

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Case:
    """A protected pair, one part of which can be made to fail."""

    def __init__(self, args, directory):
        self.directory = directory
        self.trigger = os.path.join(directory, "fail")
        self.pair = Pair(os.path.join(directory, "pair"), os.path.join(directory, "logs"), args.tandem, SIZES)
        self.primary, self.secondary = self.pair.nodes
        self.preload = {"LD_PRELOAD": os.path.realpath(os.path.join(args.build, "tests/crash/tandem-storage-fail.so")),
                        "TANDEM_STORAGE_FAIL": self.trigger, "TANDEM_JOURNAL": "written"}
        self.env = {}
        self.servers = []

    def start(self):
        for node in self.pair.nodes:
            self.pair.write_conf(node)
            node.init()
        self.secondary.start("secondary", self.env)
        self.images = [bytearray(s) for s in SIZES]
        self.primary.start("primary")
        self.process = self.primary.process.pid
        self.pair.protect(self.primary)
        self.load = Load(self.primary, itertools.count(1), 1, heavy=False, pause=0.001)
        self.load.start()
        self.primary.wait("past a few epochs", lambda s: len(self.load.cuts) >= 3)

    def fail(self, words):
        with open(self.trigger, "w", encoding="ascii") as file:
            file.write(words)

    def repair(self):
        os.unlink(self.trigger)

    def expect_failed(self, *texts):
        """The secondary has failed, for that reason, and stays where it is; the primary goes on."""
        status = self.secondary.wait_state("failed")
        if not any(t in status["reason"] for t in texts):
            raise Failure("the reason of the failed secondary is %r, not one of %r" % (status["reason"], texts))
        self.primary.wait("alone, and told why", lambda s: s["state"] == "solo" and "failed" in s["reason"])
        before = self.load.count()
        self.primary.wait("written to", lambda s: self.load.count() > before + 20)
        again = self.secondary.status()
        if again["epoch"]["committed"] != status["epoch"]["committed"]:
            raise Failure("a failed secondary goes on committing")
        try:
            self.secondary.execute("promote")
            raise Failure("a failed secondary was promoted")
        except Refused as e:
            if e.kind not in ("io", "state"):
                raise Failure("promotion of a failed secondary is refused as %s" % e) from None
        self.load.stop()

    def recover(self):
        """After the repair: what was acknowledged is there, and nothing that was not committed."""
        acknowledged = 0
        for _, heard in recordings.sessions(self.pair.records, self.primary.name, self.process):
            acknowledged = max(acknowledged, recordings.newest_commit(recordings.read(heard)))
        self.secondary.kill()
        self.pair.proxy_to(self.secondary).shut_now()  # what was committed, not what a new sync brings
        self.secondary.start("secondary", self.env)
        committed = self.secondary.wait_state("standby")["epoch"]["committed"]
        if committed < acknowledged:
            raise Failure("after the repair at epoch %d, %d was acknowledged" % (committed, acknowledged))
        have = self.secondary.read_disks()
        seen = []

        def at_close(epoch, images):
            if epoch == committed:
                oracle.compare("after the repair", images, have)
                seen.append(epoch)

        line = oracle.Line(self.images)
        for i, sent in enumerate(recordings.sent(self.pair.records, self.primary.name, self.process)):
            line.replay(sent, at_close, learn=i > 0)
        if not seen:
            raise Failure("epoch %d ends in no stream" % committed)
        oracle.check_walkers(self.load, self.images, have, acknowledged)
        self.pair.proxy_to(self.secondary).open()
        self.pair.protect(self.primary)
        self.equal()

    def equal(self):
        self.primary.execute("cut", wait="committed")
        oracle.compare("the secondary at a cut", self.primary.read_disks(), self.secondary.read_disks())

    def close(self):
        if hasattr(self, "load"):
            self.load.stop()
        self.pair.close()
        for s in self.servers:
            s.stop()


def disk_server(case):
    """An NBD server of a disk of the secondary refuses writes."""
    image = case.secondary.images[1]
    case.servers.append(NbdServer(case.directory, image, case.trigger))
    case.secondary.backings = [case.secondary.images[0], case.servers[0].uri]
    case.start()
    case.fail("")
    case.expect_failed("disk vdb: cannot write to it: Input/output error")
    case.repair()
    case.recover()


def disk_full(case):
    """The file system of a disk of the secondary is full."""
    folder = os.path.join(case.directory, "full")
    os.mkdir(folder)
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise Skip("cannot make a mount namespace: %s" % os.strerror(ctypes.get_errno()))
    _mount(folder, 0, "size=192k")
    try:
        image = os.path.join(folder, "vda.img")
        with open(image, "wb") as file:
            file.truncate(SIZES[0])
        case.secondary.images[0] = case.secondary.backings[0] = image
        for node in case.pair.nodes:
            case.pair.write_conf(node)
            node.init()
        case.secondary.start("secondary")
        case.images = [bytearray(s) for s in SIZES]
        case.primary.start("primary")
        case.process = case.primary.process.pid
        case.pair.protect(case.primary)
        case.load = Load(case.primary, itertools.count(1), 1, heavy=False, pause=0.001)
        case.load.start()
        case.expect_failed("disk vda: cannot write to it: No space left on device")
        _mount(folder, MS_REMOUNT, "size=16M")
        case.recover()
    finally:
        case.close()
        _libc.umount2(folder.encode(), 2)


def journal_write(case):
    """A write to the journal fails."""
    case.env = case.preload
    case.start()
    case.fail("journal-write")
    case.expect_failed("journal")
    case.repair()
    case.recover()


def journal_flush(case):
    """A flush of the journal fails."""
    case.env = case.preload
    case.start()
    case.fail("journal-flush")
    case.expect_failed("journal")
    case.repair()
    case.recover()


def journal_header(case):
    """The header of the journal, which frees its space, cannot be written."""
    case.env = case.preload
    case.start()
    case.fail("journal-header")
    case.expect_failed("cannot write the journal's header")
    case.repair()
    case.recover()


def primary_disk(case):
    """Writes to a disk of the primary fail: the client hears it, and both sides stay equal."""
    image = case.primary.images[0]
    case.servers.append(NbdServer(case.directory, image, case.trigger))
    case.primary.backings = [case.servers[0].uri, case.primary.images[1]]
    case.start()
    case.fail("")
    end = time.monotonic() + SECONDS
    while not any(c.error for c in case.load.clients):  # a client ends with its first error
        if time.monotonic() > end:
            raise Failure("no client got an error")
        time.sleep(0.01)
    errors = {c.error.errnum for c in case.load.clients if c.error}
    if errors != {5}:
        raise Failure("the clients got the errors %s, not EIO" % errors)
    case.repair()
    case.load.stop()
    if case.primary.status()["state"] != "protected":
        raise Failure("an error of the primary's disk ended the protection")
    case.equal()


CASES = (disk_server, journal_write, journal_flush, journal_header, primary_disk, disk_full)


def run(args, number, fn):
    directory = tempfile.mkdtemp(prefix="tandem-fail.", dir=args.directory)
    case = Case(args, directory)
    title = fn.__doc__.strip(".")
    try:
        fn(case)
        case.close()
        totals = recordings.check(case.pair.records, True)
        if not totals.records:
            raise Failure("nothing was recorded")
        print("ok %d - %s" % (number, title), flush=True)
    except Skip as e:
        case.close()
        print("ok %d - %s # SKIP %s" % (number, title, e), flush=True)
    except (Failure, Violation, Refused, nbd.Error, OSError) as e:
        case.close()
        print("not ok %d - %s: %s\n# kept: %s" % (number, title, e, directory))
        for node in case.pair.nodes:
            print("# %s: %s" % (node.name, node.last_words().replace("\n", "\n#   ")))
        return 1
    shutil.rmtree(directory)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build", help="build directory")
    parser.add_argument("--only", choices=[c.__name__ for c in CASES], action="append")
    parser.add_argument("--directory", default="/dev/shm", help="for all files (default /dev/shm)")
    args = parser.parse_args()
    args.tandem = os.path.realpath(os.path.join(args.build, "tandem"))
    chosen = [c for c in CASES if not args.only or c.__name__ in args.only]
    print("1..%d" % len(chosen), flush=True)
    return max([run(args, i + 1, c) for i, c in enumerate(chosen)])


if __name__ == "__main__":
    sys.exit(main())
