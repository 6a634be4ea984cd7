#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""verify of a VM group: the disks of both nodes are compared as they are at one checkpoint, whatever is written to them
meanwhile.  A byte that is wrong on the secondary at that checkpoint is found although the next one brings the block anew; none
is where both were equal then and the primary's disk is another by now.  What differs is dirty, or repaired.  A cut with a write
under way is left out; an abandoned checkpoint, a secondary that cannot keep its disks, a lost link end the comparison, and
nothing else.  The guest is made up: docs/examples/vmm.py.
usage: tests/scenario/verify_checkpoint.py BUILD_DIR [SEED]"""
import os
import random
import subprocess
import sys
import threading

from group import MIB, Failure, Group, main, need, ok, pattern, until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "examples"))
import vmm  # noqa: E402  pylint: disable=wrong-import-position

SIZE = 32 * MIB
BLOCK = 65536
KEYS = "heartbeat-ms = 50\npeer-timeout-ms = 3000\njournal-size = 128M\n[guest]\nmemory = 1M\n"


class Guest:
    """Its controller; the disks are written by the test itself."""

    def __init__(self, g):
        self.g = g
        self.disks = {d: g.connect("alpha", d) for d in g.disks}
        self.begin()

    def begin(self):
        self.control = vmm.Control(self.g.path("alpha", "run"))
        until("a session", lambda: vmm.ready(self.control))
        ram = os.memfd_create("ram")
        os.ftruncate(ram, MIB)
        machine = vmm.Machine(MIB, ram, self.disks["vda"])
        self.maker = vmm.Checkpointer(self.control, machine)
        self.maker.send_everything(self.control.call("query-status")["epoch"]["open"])
        self.checkpoint()
        until("protection", lambda: self.g.status("alpha")["state"] == "protected")

    def write(self, disk, off, data):
        self.disks[disk].pwrite(data, off)

    def cut(self):
        """The checkpoint up to its cut, as Checkpointer.checkpoint() makes it."""
        self.control.call("checkpoint-begin")
        return self.control.call("cut")

    def seal(self, epoch):
        state = os.memfd_create("state")
        os.write(state, vmm.BASE_STATE)
        self.control.call("submit", [state], epoch=epoch, state_bytes=len(vmm.BASE_STATE))
        self.control.call("seal", epoch=epoch, wait="committed")
        os.close(state)

    def checkpoint(self):
        answer = self.cut()
        self.seal(answer["epoch"])
        return answer

    def result(self):
        until("the end of verify", lambda: self.g.ask("alpha", "query-verify")["state"] != "running")
        return self.g.ask("alpha", "query-verify")


def flip(g, disk, off):
    with open(g.image("beta", disk), "r+b") as f:
        f.seek(off)
        byte = f.read(1)
        f.seek(off)
        f.write(bytes([byte[0] ^ 0xff]))


def ranges(r):
    return [(x["disk"], x["offset"], x["length"]) for x in r["ranges"]]


def equal(r, what):
    need(r["state"] == "done" and r["differ"] == 0 and r["unsettled"] == 0 and r["done"] == r["total"] == 2 * SIZE, what, r)


def whole(r, what, *expected):
    need(r["state"] == "done" and ranges(r) == list(expected) and r["unsettled"] == 0 and r["done"] == r["total"], what, r)


def busy_writer(g, rng, stop):
    """Writes all of a disk, many requests at a time, over and over."""
    files = [g.path("new-%d" % i) for i in range(2)]
    for name in files:
        with open(name, "wb") as f:
            f.write(rng.randbytes(SIZE))
    while not stop.is_set():
        files.reverse()
        subprocess.run(["nbdcopy", "--requests=64", files[0], g.uri("alpha", "vdb")], check=True)


def applied(g):
    """The disks of beta hold what is committed: a read-only view of them waits for that."""
    g.connect("beta").shutdown()


def scenario(build, seed):
    rng = random.Random(seed)
    g = Group(build, keys=KEYS, disks=("vda", "vdb"), size=SIZE)
    failed = True
    try:
        g.init("alpha", "beta")
        g.start("beta", "secondary", "--guest")
        g.start("alpha", "primary", "--guest")
        until("a link", lambda: g.status("alpha")["link"]["connected"])
        guest = Guest(g)
        need("frozen" not in guest.checkpoint(), "a cut that nobody wants to compare is frozen")
        content = rng.randbytes(4 * MIB)
        guest.write("vda", 0, content)
        guest.write("vdb", 8 * MIB, content)
        guest.checkpoint()

        # Everything is another by the time it is compared.
        g.ask("alpha", "verify")
        need(g.ask("alpha", "query-verify")["epoch"] == 0, "it has begun without a cut")
        cut = guest.cut()
        need(cut["frozen"], "a quiet disk is not frozen")
        for off in range(0, 8 * MIB, MIB):
            guest.write("vda", off, pattern(off, off, MIB))
        guest.disks["vdb"].zero(SIZE, 0)
        guest.seal(cut["epoch"])
        guest.checkpoint()
        r = guest.result()
        equal(r, "the disks are written to behind the cut:")
        need(r["epoch"] == cut["epoch"], "another checkpoint was compared", r, cut)
        g.ask("alpha", "verify")
        guest.checkpoint()
        equal(guest.result(), "and once more:")
        ok("equal at the checkpoint, whatever is written behind it; all is compared")

        # At the checkpoint, not before and not after it.
        applied(g)
        guest.write("vda", 20 * MIB, b"guest" * 1000)  # with it: the byte is flipped where nothing comes any more
        guest.checkpoint()
        applied(g)
        flip(g, "vda", 21 * MIB + 7)
        flip(g, "vdb", SIZE - 1)
        g.ask("alpha", "verify")
        cut = guest.cut()
        guest.write("vda", 21 * MIB, b"\x55" * BLOCK)
        guest.seal(cut["epoch"])
        guest.checkpoint()
        whole(guest.result(), "differences:", ("vda", 21 * MIB, BLOCK), ("vdb", SIZE - BLOCK, BLOCK))
        need(g.status("alpha")["disks"]["vdb"]["dirty"] >= BLOCK, "what differs is not dirty")
        applied(g)
        g.ask("alpha", "verify", repair=True)
        guest.checkpoint()
        until("the comparison", lambda: g.ask("alpha", "query-verify")["done"] == 2 * SIZE)
        guest.checkpoint()  # commits what was sent again
        r = guest.result()
        whole(r, "only what nobody wrote since still differs:", ("vdb", SIZE - BLOCK, BLOCK))
        need(r["repaired"] == BLOCK, "not repaired:", r)
        applied(g)
        g.ask("alpha", "verify")
        guest.checkpoint()
        equal(guest.result(), "after the repair:")
        ok("a byte that was wrong at the checkpoint is found, though its block came anew since; dirty, or repaired")

        # Many times under load: a write under way at the cut puts the beginning off.
        stop, taken = threading.Event(), 0
        writer = threading.Thread(target=busy_writer, args=(g, random.Random(seed), stop))
        writer.start()
        for _ in range(8):
            g.ask("alpha", "verify")
            while not guest.checkpoint()["frozen"]:
                taken += 1
                if g.ask("alpha", "query-verify")["state"] == "failed":
                    g.ask("alpha", "verify")
            while g.ask("alpha", "query-verify")["state"] == "running":
                guest.checkpoint()
            equal(guest.result(), "under load:")
        stop.set()
        while writer.is_alive():  # what is not in a checkpoint fills the journal, and waits for one
            guest.checkpoint()
        writer.join()
        ok("eight times under load: equal; %d cuts with a write under way were left out" % taken)

        g.ask("alpha", "verify")
        cut = guest.cut()
        guest.control.call("abandon", epoch=cut["epoch"])
        r = guest.result()
        need(r["state"] == "failed" and "abandoned" in r["reason"], "an abandoned checkpoint:", r)
        os.rename(g.path("beta", "state"), g.path("beta", "away"))
        g.ask("alpha", "verify")
        guest.checkpoint()
        r = guest.result()
        os.rename(g.path("beta", "away"), g.path("beta", "state"))
        need(r["state"] == "failed" and "secondary cannot keep" in r["reason"], "no room on the secondary:", r)
        need(g.status("alpha")["state"] == "protected", "protection has ended with it")
        g.ask("alpha", "verify")
        g.ask("alpha", "verify", repair=True)  # the one that waits
        guest.checkpoint()
        r = guest.result()
        equal(r, "after those:")
        need(r["repair"], "the newer one does not count", r)
        ok("an abandoned checkpoint and a secondary that cannot keep its disks end the comparison, not the protection")

        g.ask("alpha", "verify")
        guest.cut()
        g.kill("beta")
        r = guest.result()
        need(r["state"] == "failed" and "link" in r["reason"], "a lost link:", r)
        g.start("beta", "secondary", "--guest")
        guest.begin()
        guest.checkpoint()
        g.ask("alpha", "verify")
        guest.checkpoint()
        equal(guest.result(), "in the next session:")
        ok("a lost link ends it; the next session begins anew")
        for h in guest.disks.values():
            h.shutdown()
        failed = False
    except (vmm.Refused, ConnectionError) as e:
        raise Failure(e) from e
    finally:
        g.close(failed)


main(scenario)
