#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Syncs that do not fit into the journal, on file systems that can clone a file (XFS, Btrfs): the secondary keeps its last
state, bit by bit, until the sync commits, and has the new one, on all disks, from then on: promoted in the middle, killed at
each step, out of space; refused where a disk cannot be cloned.
usage: tests/scenario/clones.py BUILD_DIR [SEED]"""
import ctypes
import os
import random
import shutil
import signal
import subprocess
import tempfile

from group import MIB, SECONDS, Group, Writer, differ, main, need, ok, pattern, until

SIZE = 40 * MIB + 1536
DISKS = ("vda", "vdb")
KEYS = "epoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 30000\njournal-size = 64M\n"
# where a secondary is killed, at which passing, and whether it then holds the new state
POINTS = (("clone-made", 1, False), ("clone-kept", 1, False), ("clone-noted", 1, True), ("clone-disk", 1, True),
          ("clone-disk", 2, True), ("clone-header", 1, True), ("clone-done", 1, True))
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class Mount:
    """A file system on a loop device, in a mount namespace of this process: it is gone with it, whatever happens."""

    def __init__(self, kind, megabytes):
        self.dir = tempfile.mkdtemp(prefix="tandem.", dir=os.environ.get("TMPDIR", "/tmp"))
        self.path = os.path.join(self.dir, "fs")
        self.why = None
        os.mkdir(self.path)
        image = os.path.join(self.dir, "image")
        with open(image, "wb") as f:
            f.truncate(megabytes * MIB)
        make = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}[kind]
        for command in (make + [image], ["mount", "-o", "loop", "-t", kind, image, self.path]):
            if not shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
                self.why = "there is no " + command[0]
                break
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
                                  env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"))
            if done.returncode:
                self.why = "%s: %s" % (command[0], done.stderr.strip().replace("\n", " "))
                break

    def close(self):
        subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def image(self, node, disk):
        return os.path.join(self.path, "%s.%s" % (node, disk))

    def left(self):
        return sorted(n for n in os.listdir(self.path) if n.endswith(".tandem-sync"))

    def free(self):
        st = os.statvfs(self.path)
        return st.f_bavail * st.f_frsize


class Pair(Group):
    def __init__(self, build, rng, fs, nodes=("beta",), elsewhere=(), keys=""):
        backing = {(n, d): fs.image(n, d) for n in nodes for d in DISKS if (n, d) not in elsewhere}
        for path in backing.values():
            with open(path, "wb") as f:
                f.truncate(SIZE)
        super().__init__(build, keys=KEYS + keys, disks=DISKS, size=SIZE, backing=backing)
        self.fs, self.rng, self.rounds = fs, rng, 0
        self.init("alpha", "beta")

    def up(self, fault=None):
        self.begin("beta", "secondary", fault)
        self.begin("alpha", "primary")
        self.until_state("alpha", "protected")

    def begin(self, node, role, fault=None):
        plain = self.env
        if fault:
            self.env = dict(plain or os.environ, TANDEM_FAULT=fault)
        try:
            self.start(node, role)
        finally:
            self.env = plain

    def all(self, node):
        return [self.read(node, d) for d in DISKS]

    def same(self, node, want, what):
        for disk, have, wanted in zip(DISKS, self.all(node), want):
            d = differ(have[:len(wanted)], wanted)  # a secondary's disk may be larger
            need(not d, what, ":", disk, "of", node, ":", d)

    def more(self):
        """More than the journal takes is written alone; what both sides hold then."""
        old = self.all("beta")
        self.ask("alpha", "disconnect")
        self.fill("alpha")
        return old, self.all("alpha")

    def fill(self, node):
        self.rounds += 1
        for i, disk in enumerate(DISKS):
            h = self.connect(node, disk)
            for off in range(0, 36 * MIB, MIB):
                h.pwrite(pattern(1000 * self.rounds + i, off, MIB), off)
            h.flush()
            h.shutdown()

    def middle(self):
        """The primary stands still in the middle of a sync into clones: (old state, new state, what to leave with)."""
        for _ in range(10):
            old, new = self.more()
            self.ask("alpha", "connect")
            until("a sync into clones", self.some)
            held = Held(self.procs["alpha"].pid)
            if self.some() == "some":
                return old, new, held
            held.go_on()  # it was faster than this test
            self.until_state("alpha", "protected")
        need(False, "no sync was met in the middle")
        return None

    def some(self):
        """What the secondary has of it: "some", "all" or None."""
        s = self.status("beta")
        sync = s.get("sync")
        need(not sync or sync["kind"] == "clones", "the sync is of kind", sync)
        need(s["state"] == "standby", "the secondary is", s["state"], "while it has a state to keep")
        return "some" if sync and sync["done"] > 0 else "all" if "sync into clones of the disks is complete" in \
            self.log("beta").rsplit("accepted", 1)[1] else None

    def equal(self, what, primary="alpha", secondary="beta"):
        self.ask(primary, "cut", wait="committed")
        self.same(secondary, self.all(primary), what)
        until("no file of the sync is left", lambda: not self.fs.left())
        for disk in DISKS:
            until("no dirty block", lambda d=disk: self.status(secondary)["disks"][d]["dirty"] == 0)


class Held:
    """A process that is stopped; it goes on with the end of a `with`."""

    def __init__(self, pid):
        self.pid = pid
        os.kill(pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.go_on()


def kept(g):
    """Views in the middle that stay open over the commit; a writer; an image that is enlarged meanwhile."""
    g.up()
    old, _, held = g.middle()
    with held:
        g.same("beta", old, "in the middle of a sync into clones")
        views = [g.connect("beta", d) for d in DISKS]
        need([h.pread(4096, MIB) for h in views] == [o[MIB:MIB + 4096] for o in old], "a view shows something else")
        need(not g.fs.left(), "clones have names before they are whole:", g.fs.left())
        need("into clones" in g.cli("status", node="beta"), "status says", g.cli("status", node="beta"))
        with open(g.fs.image("beta", "vda"), "r+b") as f:  # the end of the clone is within a block
            f.truncate(SIZE + 3 * MIB)
    w = Writer(g.uri("alpha"), SIZE, g.rng.random(), g.read("alpha"))
    w.start()
    w.wait_writes(30)
    g.until_state("alpha", "protected")
    w.stop()
    need(not w.error, "the writer failed:", w.error)
    w.nbd.shutdown()
    g.equal("after the sync")
    for h, o in zip(views, old):
        d = differ(b"".join(h.pread(min(MIB, SIZE - at), at) for at in range(0, SIZE, MIB)), o)
        need(not d, "a view from before the commit has changed:", d)
        h.shutdown()
    need(os.stat(g.fs.image("beta", "vda")).st_size == SIZE + 3 * MIB, "the image is not as large as it was made")
    need(", into clones: the secondary keeps its last state until it commits" in g.log("alpha"), "the primary's log")
    ok("a sync that does not fit into the journal: the old state is shown until it commits, and by views that stay open")

    old, _, held = g.middle()
    with held:
        g.kill("beta")
        need(not g.fs.left(), "a sync that was cut leaves", g.fs.left())
    g.ask("alpha", "disconnect")
    g.begin("beta", "secondary")
    g.same("beta", old, "killed in the middle of a sync")
    g.ask("alpha", "connect")
    g.until_state("alpha", "protected")
    g.equal("after a sync that was cut")
    ok("the secondary is killed in the middle: the old state, whole; nothing is left behind; the next sync is complete")


def promoted(g):
    """In the middle: exactly the old state. And one that was the primary comes back."""
    g.up()
    old, _, held = g.middle()
    with held:
        g.cli("promote", "--force", node="beta")
        g.same("beta", old, "promoted in the middle of a sync")
    until("the old primary hears of it", lambda: g.status("alpha")["state"] == "failed")
    ok("promoted in the middle of a sync: exactly the old state")

    g.end("alpha")
    g.cli("resolve", "--keep", "beta", "--yes", node="alpha")
    g.begin("alpha", "secondary")
    g.until_state("beta", "protected")
    g.equal("what the old primary wrote alone is given up", "beta", "alpha")
    g.kill("beta")
    until("the link's end", lambda: not g.status("alpha")["link"]["connected"])
    g.cli("promote", node="alpha")
    g.fill("alpha")
    g.begin("beta", "secondary")
    g.until_state("alpha", "protected")
    g.equal("a killed primary as the secondary")
    need("into clones" in g.log("alpha").rsplit("promoted", 1)[1], "the way back was another one:", g.log("alpha"))
    ok("a primary that was killed comes back by a sync into clones")


def killed(g):
    """At each step of the end of a sync: the old state or the new one, on all disks."""
    g.up()
    for point, count, new in POINTS:
        g.end("beta")
        g.begin("beta", "secondary", "%s:%d" % (point, count))
        g.until_state("alpha", "protected")
        states = g.more()
        g.ask("alpha", "connect")
        code = g.procs.pop("beta").wait(SECONDS)
        need(code == -9, "the secondary did not die at", point, ":", g.log("beta")[-2000:])
        g.ask("alpha", "disconnect")
        g.begin("beta", "secondary")
        need(not g.fs.left(), "after", point, "there is left", g.fs.left())
        need(g.status("beta")["state"] == "standby", "after", point, "there is no state:", g.status("beta"))
        g.same("beta", states[new], "killed at %s, passing %d" % (point, count))
        g.ask("alpha", "connect")
        g.until_state("alpha", "protected")
        g.equal("after " + point)
        ok("killed at %s, passing %d: the %s state, on all disks" % (point, count, "new" if new else "old"))

    g.end("beta")
    g.begin("beta", "secondary", "clone-disk")
    g.until_state("alpha", "protected")
    g.more()
    g.ask("alpha", "connect")
    g.procs.pop("beta").wait(SECONDS)
    g.ask("alpha", "disconnect")
    need(len(g.fs.left()) == 2, "there should be clones of both disks:", g.fs.left())
    os.unlink(g.fs.image("beta", "vdb.tandem-sync"))
    g.begin("beta", "secondary")
    need("not there any more" in g.log("beta"), "nothing is said of a clone that is gone:", g.log("beta")[-1000:])
    code, said = g.cli("promote", node="beta", check=False)
    need(code == 4 and "a part of a sync" in said, "a half of two states is promoted: exit code", code, said)
    g.ask("alpha", "connect")
    g.until_state("alpha", "protected")
    g.equal("after a clone was removed")
    ok("a clone that is removed between the steps: no state to promote, and the next sync makes one")


def full(g):
    """No space for what the clones need."""
    g.up()
    g.more()  # the images have all their blocks
    g.ask("alpha", "connect")
    g.until_state("alpha", "protected")
    filler = os.path.join(g.fs.path, "filler")
    with open(filler, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, g.fs.free() - 12 * MIB)
    old, _ = g.more()
    g.ask("alpha", "connect")
    until("the sync is given up", lambda: "No space left on device" in g.status("beta")["reason"])
    # its own word may be lost with the link; asked again, it offers no clones
    until("the primary says why", lambda: "offers no clones of its disks" in g.status("alpha")["reason"])
    need("No space left on device" in g.status("beta")["reason"], "the secondary does not say any more why")
    need(g.status("beta")["state"] == "standby", "the secondary is", g.status("beta"))
    g.same("beta", old, "after a sync that found no space")
    os.unlink(filler)
    until("the clones take no space any more", lambda: g.fs.free() > 80 * MIB)
    g.ask("alpha", "disconnect")
    g.ask("beta", "connect")
    g.ask("alpha", "connect")
    g.until_state("alpha", "protected")
    g.equal("after there was space again")
    ok("no space in the middle: given up with the reason, the old state is whole; by command it is tried again")


def refused(g):
    """A disk that cannot be cloned: said before it starts, with what helps."""
    g.up()
    old, _ = g.more()
    g.ask("alpha", "connect")
    reason = until("a refusal", lambda: (lambda r: r if "does not fit" in r else None)(g.status("alpha")["reason"]))
    at = [reason.find(t) for t in ("makes clones (XFS, Btrfs)", "journal-size", "in-place in [unsafe]")]
    need(-1 not in at and at == sorted(at), "what helps, in this order, is missing in:", reason)
    g.same("beta", old, "after a refusal")
    ok("one of the disks cannot be cloned: refused before it starts, with the alternatives")


def scenario(build, seed):
    rng = random.Random(seed)
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        print("ok - clones # SKIP cannot make a mount namespace: %s" % os.strerror(ctypes.get_errno()), flush=True)
        return
    both, slow = ("alpha", "beta"), "sync-rate = 16M\n"
    for kind, parts in (("xfs", ((kept, dict(keys=slow)), (promoted, dict(nodes=both, keys=slow)), (killed, {}), (full, {}),
                                 (refused, dict(elsewhere=(("beta", "vdb"),))))),
                        ("btrfs", ((kept, dict(keys=slow)), (killed, {})))):
        fs = Mount(kind, 1024)
        try:
            if fs.why:
                print("ok - clones on %s # SKIP %s" % (kind, fs.why), flush=True)
                continue
            print("#", kind, flush=True)
            for part, how in parts:
                g, failed = Pair(build, rng, fs, **how), True
                try:
                    part(g)
                    failed = False
                finally:
                    g.close(failed)
        finally:
            fs.close()


main(scenario)
