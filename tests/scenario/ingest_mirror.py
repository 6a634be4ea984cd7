#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stock QEMU is the primary: blockdev-mirror, in both copy modes, into the exports of a secondary with ingest = nbd,
while a client writes to the source.  Checkpoints are cut, and committed or discarded; the committed state must be the
source's at the last committed checkpoint, bit by bit, and so must what a connected client reads after a discard.
usage: tests/scenario/ingest_mirror.py BUILD_DIR [SEED]"""
import json
import os
import random
import socket

from group import MIB, SECONDS, Group, Writer, differ, main, need, ok, read_all, until

SIZE = 40 * MIB
BIG = 144 * MIB  # more than the journal


class Qemu:
    """A storage daemon with the source disk as an NBD export, driven over QMP."""

    def __init__(self, g, image):
        self.g, self.jobs = g, 0
        path, self.export = g.path("qmp.sock"), g.path("source.sock")
        for p in (path, self.export):
            if os.path.exists(p):
                os.unlink(p)
        self.process = g.daemon(
            "qemu-storage-daemon", "--chardev", "socket,id=m,server=on,wait=off,path=" + path, "--monitor",
            "chardev=m", "--blockdev", "driver=file,node-name=f,discard=unmap,filename=" + image, "--blockdev",
            "driver=raw,node-name=source,discard=unmap,file=f", "--nbd-server", "addr.type=unix,addr.path=" + self.export,
            "--export", "type=nbd,id=e,node-name=source,name=source,writable=on", name="qemu")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        until("QMP", lambda: self.sock.connect_ex(path) == 0)
        self.file = self.sock.makefile("rw")
        self.events = []
        self.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "event" in answer:
                self.events.append(answer)
                continue
            need("return" in answer, command, answer.get("error"))
            return answer["return"]

    def uri(self):
        return "nbd+unix:///source?socket=" + self.export

    def mirror(self, mode, sync="full"):
        self.jobs += 1
        self.job = "mirror%d" % self.jobs
        self.execute("blockdev-add", **{"driver": "nbd", "node-name": self.job + "t", "export": "vda",
                                        "server": {"type": "unix", "path": self.g.path("beta", "run", "nbd.sock")}})
        self.execute("blockdev-mirror", **{"job-id": self.job, "device": "source", "target": self.job + "t",
                                           "sync": sync, "copy-mode": mode, "on-target-error": "report"})

    def query(self):
        job = [j for j in self.execute("query-jobs") if j["id"] == self.job]
        need(job, "the mirror has ended:", [e for e in self.events if e["event"].startswith("BLOCK_JOB")])
        return job[0]

    def wait_ready(self):
        until("the mirror is ready", lambda: self.query()["status"] == "ready")

    def dirty(self):
        """Bytes of the source that the mirror has still to copy."""
        node = [n for n in self.execute("query-named-block-nodes", flat=True) if n["node-name"] == "source"][0]
        return sum(b["count"] for b in node.get("dirty-bitmaps", []))

    def pause_caught_up(self):
        """Nobody writes: all of the source is on the target, and nothing is under way.  What a ready job tells of its
        progress may be old; but a paused one has nothing in flight, and then its bitmap tells all."""
        def done():
            self.execute("job-pause", id=self.job)
            until("the mirror pauses", lambda: self.query()["status"] == "standby")
            if self.dirty() == 0:
                return True
            self.resume()
            return False
        until("the mirror has caught up", done)

    def resume(self):
        self.execute("job-resume", id=self.job)

    def cancel(self):
        """Ends the mirror; False when it had ended by itself."""
        self.execute("block-job-cancel", device=self.job, force=True)
        until("the mirror is gone", lambda: not [j for j in self.execute("query-jobs") if j["id"] == self.job])
        self.execute("blockdev-del", **{"node-name": self.job + "t"})

    def close(self):
        self.sock.close()
        self.process.terminate()
        self.process.wait(SECONDS)
        self.g.others.remove(self.process)


def checkpoint(g, q, w):
    """The VM is stopped, so to speak: (epoch, content of the source)."""
    with w.lock:
        need(not w.error, "a write to the source failed:", w.error)
        q.pause_caught_up()
        epoch = g.ask("beta", "cut")["epoch"]
        q.resume()
        return epoch, bytes(w.content)


def check_committed(g, content, epoch, where):
    need(g.status("beta")["epoch"]["committed"] == epoch, where, "not committed")
    where_differ = differ(g.read("beta", "vda@committed"), content)
    need(not where_differ, where, "the committed state is not the source's at epoch", epoch, ":", where_differ)


def fill_larger_than_the_journal(build, seed, mode):
    g = Group(build, "epoch-ms = 0\njournal-size = 64M\n", size=BIG, node_keys={"beta": "ingest = nbd\n"})
    failed = True
    try:
        g.init("beta")
        g.start("beta", "secondary")
        need(g.status("beta")["state"] == "stopped", "state before the fill", g.status("beta"))
        code, text = g.cli("promote", node="beta", check=False)
        need(code == 4 and "no committed state" in text, "promotion before the first commit:", code, text)
        rng = random.Random(seed)
        with open(g.image("alpha"), "r+b") as f:
            while f.tell() < 100 * MIB:
                f.write(rng.randbytes(MIB))
        q = Qemu(g, g.image("alpha"))
        with open(g.image("alpha"), "rb") as f:
            w = Writer(q.uri(), BIG, seed, f.read(), longest=64 * 1024)
        w.start()
        q.mirror(mode)
        q.wait_ready()
        need(g.status("beta")["state"] == "syncing", "state during the fill", g.status("beta"))
        epoch, content = checkpoint(g, q, w)
        w.wait_writes(50)  # they go to the next epoch, which is not a part of this one
        need(g.status("beta")["state"] == "syncing", "state before the first commit")
        need(g.ask("beta", "commit")["epoch"] == epoch, "the first commit")
        check_committed(g, content, epoch, "the first mirror")
        need(g.status("beta")["state"] == "standby", "state after the first commit", g.status("beta"))
        need(g.status("beta")["generation"] == 1, "generation", g.status("beta"))
        for _ in range(3):
            w.wait_writes(50)
            epoch, content = checkpoint(g, q, w)
            g.cli("commit", node="beta")
            check_committed(g, content, epoch, "after the fill")
        ok("%s: a first mirror larger than the journal, then checkpoints" % mode)
        connected = g.connect("beta")
        w.wait_writes(50)
        until("the mirror writes on", lambda: g.status("beta")["lag"]["bytes"])
        answer = g.ask("beta", "discard")
        need(answer["epochs"] == 1 and answer["committed"] == epoch, "discard", answer)
        q.cancel()  # what it sends late is of the next open epoch
        g.ask("beta", "discard")
        need(not differ(read_all(connected), content), "a connected client after a discard")
        w.stop()
        q.close()
        g.kill("beta")
        g.start("beta", "secondary")
        check_committed(g, content, epoch, "after SIGKILL")
        ok("%s: after a discard, and after SIGKILL, connected and new clients read the committed state" % mode)
        failed = False
    finally:
        g.close(failed)


def commit_and_discard(build, seed, mode):
    g = Group(build, "epoch-ms = 0\njournal-size = 256M\n", size=SIZE, node_keys={"beta": "ingest = nbd\n"})
    rng, committed, failed = random.Random(seed), None, True
    try:
        g.init("beta")
        g.start("beta", "secondary")
        q = Qemu(g, g.image("alpha"))
        w = Writer(q.uri(), SIZE, seed)
        w.start()
        q.mirror(mode)
        q.wait_ready()
        connected = g.connect("beta")
        commits = discards = 0
        while commits < 6 or discards < 3:
            w.wait_writes(rng.randrange(20, 120))
            epoch, content = checkpoint(g, q, w)
            w.wait_writes(10)
            choice = rng.randrange(4) if committed else 0
            if choice == 0 or choice == 1:
                g.ask("beta", "commit", epoch=epoch)
                committed = epoch, content
                commits += 1
            elif choice == 2:  # two checkpoints with one commit
                epoch, content = checkpoint(g, q, w)
                need(g.ask("beta", "commit")["epoch"] == epoch, "the newest sealed epoch")
                committed = epoch, content
                commits += 1
            else:
                need(g.ask("beta", "discard")["epochs"] >= 1, "nothing was discarded")
                q.cancel()
                g.ask("beta", "discard")
                need(not differ(read_all(connected), committed[1]), "a connected client after a discard")
                discards += 1
                if discards == 2:  # a crash in the middle of an epoch is a discard too
                    connected.pwrite(b"\xa5" * 4096, 0)
                    need(connected.pread(4096, 0) == b"\xa5" * 4096, "reads see what was written")
                    g.kill("beta")
                    g.start("beta", "secondary")
                    connected = g.connect("beta")
                    need(not differ(read_all(connected), committed[1]), "after SIGKILL")
                q.mirror(mode)
                q.wait_ready()
            check_committed(g, committed[1], committed[0], "checkpoint")
        w.stop()
        q.cancel()
        ok("%s: %d commits and %d discards; the committed state is the source's at the last committed checkpoint" %
           (mode, commits, discards))
        failed = False
    finally:
        g.close(failed)


def run(build, seed):
    for i, mode in enumerate(("background", "write-blocking")):
        fill_larger_than_the_journal(build, seed + i, mode)
        commit_and_discard(build, seed + i, mode)


main(run)
