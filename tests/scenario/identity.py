#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose data counts, with real nodes: failover and back, split brain and its resolution, refusals, power cuts.

usage: identity.py BUILD_DIR [SCENARIO...]    (output in the manner of TAP; names: --list)
Each scenario has a folder with the logs of its nodes, in $TANDEM_TEST_LOGS or a temporary one; both disks are compared,
whole, each time that the group is protected again."""
import concurrent.futures
import errno
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import struct
import sys
import tempfile
import threading
import time

import nbd

sys.path += [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("crash", "decode")]
from crc32c import crc32c  # noqa: E402
from node import Failure, Pair, Refused  # noqa: E402

UNIT = 1 << 19
SIZES = [24 * UNIT, 8 * UNIT]
FILLED = 3 * UNIT  # data on each disk in the beginning: what a full copy would send
BLOCK = 65536 + 4096  # of the dirty map, sent; the places that a scenario writes to touch one each, or a second one
IDLE = 50000  # bytes of a session that has nothing to copy
scenarios = {}


def scenario(function):
    scenarios[function.__name__] = function
    return function


def check(condition, text):
    if not condition:
        raise Failure(text)


def content(number, length):
    """Repeats with a prime length, so that a lost or misplaced block shows."""
    unit = bytes((number * 37 + i * i) % 251 for i in range(251))
    return (unit * (length // 251 + 1))[:length]


class Rig:
    """alpha and beta, and what a scenario says about them."""

    def __init__(self, tandem, name, folder):
        self.tandem = tandem
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        self.tmp = tempfile.mkdtemp(prefix="tandem-%s." % name, dir="/dev/shm")
        self.pair = Pair(self.tmp, self.folder, tandem, SIZES)
        self.alpha, self.beta = self.pair.nodes
        self.number = 0
        self.steps = []

    def close(self, failed):
        self.pair.close()
        if not failed:
            shutil.rmtree(self.folder)
        shutil.rmtree(self.tmp)

    def decode(self):
        """What crossed the links, against docs/stream.md, by the independent decoder."""
        for node in self.pair.nodes:
            node.stop()
        decoder = pathlib.Path(__file__).resolve().parents[1] / "decode" / "tandem_decode.py"
        done = subprocess.run([sys.executable, decoder, "folder", "--cut", self.pair.records], capture_output=True,
                              text=True, timeout=120, stdin=subprocess.DEVNULL)
        check(done.returncode == 0, "a recorded link is not as docs/stream.md has it: %s%s" % (done.stdout, done.stderr))

    def step(self, text):
        self.steps.append(text)

    def command(self, node, name, *options, code=0):
        """Runs the program; its output."""
        done = subprocess.run([self.tandem, name, node.conf, "--node", node.name, *options], capture_output=True,
                              text=True, timeout=60, stdin=subprocess.DEVNULL)
        check(done.returncode == code, "tandem %s on %s ended with %d, not %d: %s%s" %
              (name, node.name, done.returncode, code, done.stdout, done.stderr))
        return done.stdout + done.stderr

    def at_terminal(self, node, answer, code, name, *options):
        """The same, with this typed."""
        master, slave = pty.openpty()
        with subprocess.Popen([self.tandem, name, node.conf, "--node", node.name, *options], stdin=slave,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            os.write(master, answer.encode())
            said = process.communicate(timeout=60)[0]
        os.close(master)
        os.close(slave)
        check(process.returncode == code, "tandem %s at a terminal ended with %d: %s" % (name, process.returncode, said))
        return said

    def write(self, node, *places, length=5000):
        """Own content at (disk, offset)..., flushed."""
        for disk, offset in places:
            self.number += 1
            h = node.connect("vd" + "ab"[disk])
            h.pwrite(content(self.number, length), offset)
            h.flush()
            h.shutdown()

    def begin(self):
        """A protected group with data on it."""
        for node in self.pair.nodes:
            node.init()
        self.beta.start("secondary")
        self.alpha.start("primary")
        self.alpha.wait_state("protected")
        for disk in range(2):
            self.write(self.alpha, (disk, 0), length=FILLED)
        self.equal(self.alpha)

    def equal(self, primary):
        """At a cut both have the same, which is returned."""
        self.command(primary, "cut", "--wait")
        mine, other = primary.read_disks(), self.pair.other(primary).read_disks()
        for disk, (a, b) in enumerate(zip(mine, other)):
            check(a == b, "disk %d differs at a cut, first at byte %d" %
                  (disk, next((i for i in range(len(a)) if a[i] != b[i]), -1)))
        return mine

    def meet(self, primary, most=None):
        """They find each other, become protected, and are equal; at most so many bytes are sent to bring them there."""
        self.pair.protect(primary)
        sent = self.pair.proxy_to(self.pair.other(primary)).passed[0]
        self.step("protected again after %d bytes" % sent)
        check(most is None or sent <= most, "%d bytes were sent, at most %s are due" % (sent, most))
        return self.equal(primary)

    def refused(self, primary, *words):
        """The primary stays alone; both say why."""
        def says(status):
            return all(w in status["reason"] for w in words)
        primary.execute("connect")
        status = primary.wait("refused", says)
        check(status["state"] == "solo", "%s is %s after a refusal" % (primary.name, status["state"]))
        self.pair.other(primary).wait("refusing", says)
        self.step("refused: " + words[0])
        return status["reason"]

    def generation(self, node, number):
        have = node.status()["generation"]
        check(have == number, "%s is at generation %d, not %d" % (node.name, have, number))

    def cut_link(self):
        for p in self.pair.proxies:
            p.shut_now()

    def open_link(self):
        for p in self.pair.proxies:
            p.open()

    def solo(self):
        self.cut_link()
        self.alpha.wait_state("solo")
        self.beta.wait("without its primary", lambda s: not s["link"]["connected"])

    def as_secondary(self, node):
        node.stop()
        node.start("secondary")

    def promote(self, node):
        self.command(node, "promote")


# --- failover ---

@scenario
def failover_and_back_unchanged(rig):
    rig.begin()
    before = rig.alpha.read_disks()
    old, new, generation = rig.alpha, rig.beta, 1
    for _ in range(4):
        old.stop()
        rig.promote(new)
        generation += 1
        rig.generation(new, generation)
        old.start("secondary")
        check(rig.meet(new, IDLE) == before, "the content has changed, though nobody wrote")
        rig.generation(old, generation)
        old, new = new, old


@scenario
def promoted_and_demoted_without_a_write(rig):
    """The promoted node was never written to: its promotion leaves no trace, whether the other one wrote or not."""
    rig.begin()
    for written in (False, True):
        rig.solo()
        if written:
            rig.write(rig.alpha, (0, UNIT), (1, 4096))
        rig.promote(rig.beta)
        rig.as_secondary(rig.beta)
        rig.open_link()
        rig.meet(rig.alpha, IDLE + 2 * BLOCK * written)


@scenario
def link_loss_without_a_write(rig):
    rig.begin()
    for _ in range(3):
        rig.solo()
        rig.open_link()
        rig.meet(rig.alpha, IDLE)
        rig.generation(rig.alpha, 1)
    rig.solo()
    rig.write(rig.alpha, (0, UNIT))
    rig.generation(rig.alpha, 2)
    rig.write(rig.alpha, (0, 2 * UNIT), (1, UNIT))
    rig.generation(rig.alpha, 2)
    rig.open_link()
    rig.meet(rig.alpha, IDLE + 3 * BLOCK)
    rig.generation(rig.beta, 2)


@scenario
def failover_and_back_with_writes(rig):
    rig.begin()
    rig.alpha.stop()
    rig.promote(rig.beta)
    rig.write(rig.beta, (0, 3 * UNIT), (1, 12345))
    rig.alpha.start("secondary")
    rig.meet(rig.beta, IDLE + 3 * BLOCK)
    rig.write(rig.beta, (0, 20 * UNIT))
    rig.beta.stop()
    rig.promote(rig.alpha)
    rig.write(rig.alpha, (0, 3 * UNIT + 700), (1, 6 * UNIT))
    rig.beta.start("secondary")
    rig.meet(rig.alpha, IDLE + 3 * BLOCK)
    rig.generation(rig.beta, 3)


@scenario
def three_failovers_in_a_row(rig):
    """Each time the primary is killed while its last writes are on the way; the old one takes back what it wrote alone."""
    rig.begin()
    old, new = rig.alpha, rig.beta
    for i in range(3):
        rig.write(old, (0, (7 + i) * UNIT), (1, (i + 1) * 70000))
        committed = rig.equal(old)
        old.kill()
        rig.promote(new)
        check(new.read_disks() == committed, "what was committed at a cut is not what the promoted node has")
        rig.write(new, (0, (7 + i) * UNIT + 3000), (1, 5 * UNIT))
        old.start("secondary")
        rig.meet(new)
        rig.generation(new, i + 2)
        old, new = new, old


@scenario
def uncommitted_writes_are_rolled_back(rig):
    """What the primary wrote after the last committed epoch is gone after a failover, without a split brain."""
    rig.begin()
    committed = rig.equal(rig.alpha)
    rig.pair.proxy_to(rig.beta).cut_after(0, 2000, True, True)
    rig.write(rig.alpha, (0, 9 * UNIT), length=UNIT)  # goes into the session, which ends in the middle of it
    rig.alpha.kill()
    rig.beta.wait("without its primary", lambda s: not s["link"]["connected"])
    rig.promote(rig.beta)
    check(rig.beta.read_disks() == committed, "the promoted node is not at the committed epoch")
    rig.write(rig.beta, (1, 4096))
    rig.open_link()
    rig.alpha.start("secondary")
    rig.meet(rig.beta)


# --- split brain ---

def split(rig):
    rig.begin()
    rig.solo()
    rig.write(rig.alpha, (0, UNIT), (1, 4096))
    rig.promote(rig.beta)
    rig.write(rig.beta, (0, UNIT + 2000), (0, 15 * UNIT))
    rig.generation(rig.alpha, 2)
    rig.generation(rig.beta, 2)
    rig.open_link()


@scenario
def split_brain_the_old_primary_stays(rig):
    split(rig)
    mine = rig.alpha.read_disks()
    rig.as_secondary(rig.beta)
    theirs = rig.beta.read_images()
    reason = rig.refused(rig.alpha, "split brain", "since generation 1", "tandem resolve CONF --keep", "on the other one")
    check(rig.beta.read_images() == theirs, "a refused node was changed")
    rig.write(rig.alpha, (1, 8192))  # it goes on serving
    said = rig.command(rig.beta, "resolve", "--keep", "alpha", code=2)
    check("--yes" in said and "nothing was changed" in said, "resolve without a terminal says: " + said)
    check("generation 2, written since generation 1" in said and "disk vda: up to" in said, "the loss is not named: " + said)
    check(rig.refused(rig.alpha, "split brain") == reason, "an unconfirmed resolve has changed something")
    rig.command(rig.beta, "resolve", "--keep", "alpha", "--yes")
    now = rig.meet(rig.alpha, IDLE + 6 * BLOCK)  # what both have written
    check(now[0] == mine[0], "the kept node's disk has changed")


@scenario
def split_brain_the_new_primary_stays(rig):
    split(rig)
    theirs = rig.beta.read_disks()
    rig.alpha.stop()
    # Of a node that does not run, by hand.
    said = rig.at_terminal(rig.alpha, "no\n", 1, "resolve", "--keep", "beta")
    check("not confirmed" in said and "generation 2" in said, "an answer that is no: " + said)
    said = rig.at_terminal(rig.alpha, "alpha\n", 0, "resolve", "--keep", "beta")
    check("takes beta's data over" in said, "an answer that is yes: " + said)
    said = rig.command(rig.alpha, "primary", code=4)
    check("given up" in said, "a node that gave up its data starts as primary, or says: " + said)
    rig.alpha.start("secondary")
    check(rig.meet(rig.beta, IDLE + 6 * BLOCK) == theirs, "the kept node's disks have changed")


@scenario
def split_brain_resolved_and_taken_back(rig):
    split(rig)
    rig.alpha.stop()
    rig.command(rig.alpha, "resolve", "--keep", "beta", "--yes")
    rig.command(rig.alpha, "resolve", "--keep", "alpha")
    rig.alpha.start("primary")
    rig.as_secondary(rig.beta)
    rig.refused(rig.alpha, "split brain")
    said = rig.command(rig.beta, "resolve", "--keep", "gamma", code=2)
    check("gamma" in said, "an unknown node is not named: " + said)
    rig.command(rig.beta, "resolve", "--keep", "alpha", "--yes")
    rig.meet(rig.alpha)


@scenario
def refusals_make_no_storm(rig):
    split(rig)
    rig.as_secondary(rig.beta)
    rig.refused(rig.alpha, "split brain")
    before = rig.pair.proxy_to(rig.beta).generation
    # Ten seconds are not waited for: writes go on meanwhile, and nobody connects.
    for i in range(40):
        rig.write(rig.alpha, (0, i * 8192))
    check(rig.pair.proxy_to(rig.beta).generation <= before + 1, "a refused primary connects again and again")
    with open(rig.alpha.log, encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if "split brain" in line]
    check(len(lines) == 1, "one refusal made %d lines of log" % len(lines))


# --- refusals ---

@scenario
def stale_primary(rig):
    rig.begin()
    rig.solo()
    rig.promote(rig.beta)
    rig.write(rig.beta, (0, 5 * UNIT), (1, 9000))
    theirs = rig.beta.read_disks()
    rig.open_link()
    rig.as_secondary(rig.beta)
    rig.refused(rig.alpha, "newer", "promote the other node", "name on the secondary")
    check(rig.beta.read_images() == theirs, "a refused node was changed")
    # As the reason says: this one becomes the secondary, the other one the primary.
    rig.as_secondary(rig.alpha)
    rig.beta.stop()
    rig.beta.start("primary")
    check(rig.meet(rig.beta, IDLE + 2 * BLOCK) == theirs, "the newer data is lost")


@scenario
def superseded_primary(rig):
    rig.begin()
    guest = rig.alpha.connect("vda")
    rig.command(rig.beta, "promote", code=4)
    rig.command(rig.beta, "promote", "--force")
    rig.alpha.wait_state("failed")
    check("was promoted (generation 2)" in rig.alpha.status()["reason"], "the reason is not that it was superseded")
    try:
        guest.pwrite(b"x" * 512, 0)
        raise Failure("a superseded primary takes writes")
    except nbd.Error as e:
        check(e.errnum == errno.ESHUTDOWN, "a superseded primary fails a write with: %s" % e)
    guest.shutdown()
    rig.alpha.stop()
    check("promoted" in rig.command(rig.alpha, "primary", code=4), "it does not say why it may not start")
    rig.write(rig.beta, (0, 3 * UNIT))
    rig.alpha.start("secondary")
    rig.meet(rig.beta)
    # The other way: the promoted node is lost, and the superseded one is to go on.
    rig.command(rig.alpha, "promote", "--force")
    rig.beta.wait_state("failed")
    rig.alpha.kill()
    rig.beta.stop()
    rig.command(rig.beta, "resolve", "--keep", "beta")
    rig.beta.start("primary")
    rig.write(rig.beta, (0, 4 * UNIT))


@scenario
def unrelated_groups(rig):
    """Two nodes that were each a primary before they met."""
    for node in rig.pair.nodes:
        node.init()
        node.start("primary")
        rig.write(node, (0, UNIT), (1, 0))
    rig.as_secondary(rig.beta)
    theirs = rig.beta.read_images()
    rig.refused(rig.alpha, "unrelated", "tandem resolve CONF --keep")
    check(rig.beta.read_images() == theirs, "a refused node was changed")
    rig.command(rig.beta, "resolve", "--keep", "alpha", "--yes")
    mine = rig.alpha.read_disks()
    check(rig.meet(rig.alpha) == mine, "the kept node's disks have changed")


@scenario
def another_group_by_name(rig):
    rig.begin()
    rig.beta.stop()
    rig.pair.group["name"] = "other"
    rig.pair.write_conf(rig.beta)
    rig.beta.start("secondary")
    rig.refused(rig.alpha, "another group", '"other"')
    rig.beta.stop()
    rig.pair.group["name"] = "g"
    rig.pair.write_conf(rig.beta)
    rig.beta.start("secondary")
    rig.meet(rig.alpha)


@scenario
def smaller_disk(rig):
    os.truncate(rig.beta.images[1], SIZES[1] - 4096)
    for node in rig.pair.nodes:
        node.init()
    rig.beta.start("secondary")
    rig.alpha.start("primary")
    rig.refused(rig.alpha, "smaller", "vdb", str(SIZES[1] - 4096), str(SIZES[1]))
    rig.beta.stop()
    os.truncate(rig.beta.images[1], SIZES[1])
    rig.beta.start("secondary")
    rig.meet(rig.alpha)


@scenario
def other_disks(rig):
    rig.begin()
    rig.beta.stop()
    disks = rig.pair.disks
    rig.pair.disks = list(reversed(disks))
    rig.pair.write_conf(rig.beta)
    said = rig.command(rig.beta, "secondary", code=1)
    check("init saw" in said, "other disks than those of init: " + said)
    rig.pair.disks = disks
    rig.pair.write_conf(rig.beta)
    rig.beta.start("secondary")
    rig.meet(rig.alpha)


@scenario
def half_synchronised_secondary(rig):
    """A sync in place that was cut leaves no state to promote, and none to start a primary from."""
    rig.pair.group["sync-rate"] = "2M"
    rig.pair.write_conf(rig.alpha)
    for node in rig.pair.nodes:
        node.init()
    rig.alpha.start("primary")
    for disk in range(2):
        rig.write(rig.alpha, (disk, 0), length=FILLED)
    rig.beta.start("secondary")
    rig.alpha.execute("connect")
    rig.alpha.wait("in a sync", lambda s: s.get("sync", {}).get("done", 0) > UNIT)
    rig.cut_link()
    rig.alpha.wait_state("solo")
    rig.beta.wait("without its primary", lambda s: not s["link"]["connected"])
    check("state to promote" in rig.command(rig.beta, "promote", code=4), "promotion is refused without the reason")
    rig.beta.stop()
    said = rig.command(rig.beta, "primary", code=4)
    check("secondary" in said, "a half of a sync starts as primary, or says: " + said)
    rig.write(rig.alpha, (0, UNIT))
    rig.open_link()
    rig.beta.start("secondary")
    rig.meet(rig.alpha)
    rig.generation(rig.beta, 2)


# --- crashes ---

@scenario
def both_lost_power(rig):
    rig.begin()
    for i in range(2):
        rig.write(rig.alpha, (0, (3 + i) * UNIT), (1, 30000 * (i + 1)))
        rig.alpha.kill()
        rig.beta.kill()
        rig.beta.start("secondary")
        rig.alpha.start("primary")
        rig.meet(rig.alpha)
        rig.generation(rig.beta, rig.alpha.status()["generation"])


@scenario
def primary_crashed_and_came_back(rig):
    rig.begin()
    rig.write(rig.alpha, (0, 3 * UNIT), length=2 * UNIT)
    rig.alpha.kill()
    rig.alpha.start("primary")
    rig.meet(rig.alpha)
    # alone when it crashes
    rig.solo()
    rig.write(rig.alpha, (1, UNIT))
    rig.alpha.kill()
    rig.alpha.start("primary")
    rig.open_link()
    rig.meet(rig.alpha)
    rig.generation(rig.beta, 3)  # one for the first sync, whose hot regions may differ, one for the write alone


@scenario
def written_while_catching_up(rig):
    """A crashed primary comes back, and is written to while its hot regions are copied: that is as good as alone."""
    rig.begin()
    rig.alpha.kill()
    rig.pair.group["sync-rate"] = "500K"
    rig.pair.write_conf(rig.alpha)
    rig.alpha.start("primary")
    rig.alpha.execute("connect")
    rig.alpha.wait_state("syncing")
    rig.write(rig.alpha, (0, 3 * UNIT))
    check(rig.alpha.status()["state"] == "syncing", "the sync was faster than its rate allows")
    rig.cut_link()
    rig.alpha.wait_state("solo")
    rig.beta.wait("without its primary", lambda s: not s["link"]["connected"])
    rig.promote(rig.beta)
    rig.write(rig.beta, (0, 3 * UNIT))
    rig.open_link()
    rig.as_secondary(rig.alpha)
    rig.refused(rig.beta, "split brain")
    rig.command(rig.alpha, "resolve", "--keep", "beta", "--yes")
    rig.meet(rig.beta)


@scenario
def missed_end_of_a_sync(rig):
    """The sync is committed, but the primary does not hear of it: whoever goes on, no split brain, and nothing is missed."""
    rig.begin()
    rig.pair.group["sync-rate"] = "200K"
    rig.pair.write_conf(rig.alpha)
    rig.alpha.stop()
    rig.alpha.start("primary")
    rig.meet(rig.alpha)
    link = rig.pair.proxy_to(rig.beta)
    for i, goes_on in enumerate((rig.alpha, rig.beta)):
        rig.solo()
        rig.write(rig.alpha, (0, (3 + i) * UNIT), (1, (3 + i) * UNIT), length=100000)
        generation = rig.alpha.status()["generation"]
        rig.open_link()
        rig.alpha.execute("connect")
        rig.alpha.wait_state("syncing")
        link.stall(1)
        rig.beta.wait("of generation %d" % generation, lambda s, g=generation: s["generation"] == g)
        check(rig.alpha.status()["state"] == "syncing", "the primary knows of the commit")
        rig.cut_link()
        link.stall(1, False)
        rig.alpha.wait_state("solo")
        rig.beta.wait("without its primary", lambda s: not s["link"]["connected"])
        if goes_on is rig.alpha:
            rig.write(rig.alpha, (0, 9 * UNIT))
            rig.generation(rig.alpha, generation + 1)
            rig.open_link()
            rig.meet(rig.alpha)
    rig.alpha.stop()
    rig.promote(rig.beta)
    rig.write(rig.beta, (1, 7 * UNIT))
    rig.open_link()
    rig.alpha.start("secondary")
    rig.meet(rig.beta)


@scenario
def rejoined_primary_killed_at_the_commit(rig):
    """It took the other's data over a moment ago, and may not have noted so beside its journal: nothing of it is lost."""
    rig.begin()
    old, new = rig.alpha, rig.beta
    for i in range(3):
        rig.write(old, (0, (7 + i) * UNIT), (1, 70000 * (i + 1)))
        old.kill()
        rig.promote(new)
        rig.write(new, (0, (7 + i) * UNIT + 3000), (1, 5 * UNIT), (0, (12 + i) * UNIT))
        have, generation = new.read_disks(), new.status()["generation"]
        old.start("secondary")
        rig.pair.protect(new)
        old.kill()
        new.kill()
        old.start("secondary")
        rig.generation(old, generation)
        check(old.read_disks() == have, "what was committed is not what the secondary has after the crash")
        rig.promote(old)
        check(old.read_disks() == have, "what was committed is not what the promoted node has")
        new.start("secondary")
        rig.meet(old)


@scenario
def writes_during_a_sync(rig):
    """Under a guest that writes all the time; and with either side killed in the middle."""
    rig.pair.group["sync-rate"] = "2M"
    rig.pair.write_conf(rig.alpha)
    for node in rig.pair.nodes:
        node.init()
    rig.alpha.start("primary")
    for disk in range(2):
        rig.write(rig.alpha, (disk, 0), length=FILLED)

    def in_a_sync(status):
        """... and one write more."""
        rig.write(rig.alpha, (rig.number % 2, (rig.number * 7919 * 512) % (5 * UNIT)))
        return status.get("sync", {}).get("done", 0) > UNIT
    rig.beta.start("secondary")
    rig.alpha.execute("connect")
    rig.alpha.wait("in a sync", in_a_sync)
    rig.beta.kill()
    rig.alpha.wait_state("solo")
    rig.beta.start("secondary")
    rig.alpha.execute("connect")
    rig.alpha.wait("in a sync", in_a_sync)
    rig.alpha.kill()
    rig.alpha.start("primary")
    rig.alpha.execute("connect")
    rig.alpha.wait("in a sync, or after it", lambda s: in_a_sync(s) or s["state"] == "protected")
    rig.meet(rig.alpha)


@scenario
def secondary_crashed(rig):
    rig.begin()
    for i in range(2):
        rig.write(rig.alpha, (0, (3 + i) * UNIT), length=2 * UNIT)
        rig.beta.kill()
        rig.alpha.wait_state("solo")
        rig.write(rig.alpha, (1, UNIT * (i + 1)))
        rig.beta.start("secondary")
        rig.meet(rig.alpha)
    rig.generation(rig.beta, 3)


@scenario
def metadata_of_the_first_version(rig):
    rig.begin()
    rig.beta.stop()
    path = os.path.join(rig.beta.state, "group.meta")
    with open(path, "r+b") as file:
        for at in (0, 8192):
            file.seek(at)
            slot = bytearray(file.read(8192))
            slot[8:16] = struct.pack("<II", 1, 1)
            slot[8188:] = struct.pack("<I", crc32c(slot[:8188]))
            file.seek(at)
            file.write(slot)
    said = rig.command(rig.beta, "secondary", code=6)
    check("group.meta" in said and "init --force" in said, "no way out is named: " + said)
    rig.command(rig.beta, "init", "--force")
    rig.beta.start("secondary")
    rig.meet(rig.alpha)


# --- planned move of the role ---

class Writer(threading.Thread):
    """Writes with FUA until it is refused; knows what was acknowledged."""

    def __init__(self, node):
        super().__init__()
        self.handle = node.connect("vda")
        self.acknowledged = {}
        self.last = None  # refused: it may stand on the disk or not
        self.count = 0
        self.ending = False
        self.start()

    def run(self):
        number = 0
        while not self.ending:
            offset, data = UNIT * 10 + number * 7 % 64 * 4096, content(number + 1, 4096)
            self.last = (offset, data)
            try:
                self.handle.pwrite(data, offset, nbd.CMD_FLAG_FUA)
            except nbd.Error:
                return
            self.acknowledged[offset] = data
            self.last = None
            self.count += 1
            number += 1

    def wait_writes(self, more=50):
        end, until = self.count + more, time.monotonic() + 30
        while self.count < end:
            check(time.monotonic() < until and self.is_alive(), "the writer does not come forward")
            time.sleep(0.002)

    def end(self):
        self.ending = True
        self.join(60)
        check(not self.is_alive(), "a write is not answered")

    def verify(self, node):
        disk = node.read_disks()[0]
        for offset, data in self.acknowledged.items():
            check(disk[offset:offset + 4096] == data, "an acknowledged write at %d is not on %s" % (offset, node.name))


def hand_over(rig, old, new):
    """With a writer; the old primary's process has ended, and the other one has all that was acknowledged."""
    writer = Writer(old)
    writer.wait_writes()
    said = rig.command(old, "switchover")
    check("handed over at epoch" in said, said)
    check(old.process.wait(30) == 0, "the former primary has not ended with 0")
    old.process = None
    writer.join(30)
    check(not writer.is_alive() and writer.last is not None, "the last write was not refused")
    new.wait("the primary", lambda s: s["role"] == "primary")
    writer.verify(new)
    check(len(writer.acknowledged) > 40, "the writer wrote nothing to speak of")


@scenario
def switchover_and_back(rig):
    rig.begin()
    old, new = rig.alpha, rig.beta
    for i in range(3):
        hand_over(rig, old, new)
        rig.generation(new, i + 2)
        rig.write(new, (0, 20 * UNIT))
        old.start("secondary")
        rig.meet(new, IDLE + 8 * BLOCK)
        rig.generation(old, i + 2)
        old, new = new, old


@scenario
def switchover_is_refused(rig):
    rig.begin()
    said = rig.command(rig.beta, "switchover", code=4)
    check("it is the primary that hands over" in said, said)
    rig.solo()
    said = rig.command(rig.alpha, "switchover", code=4)
    check("not protected" in said, said)
    rig.write(rig.alpha, (0, UNIT))
    rig.open_link()
    rig.meet(rig.alpha, IDLE + 2 * BLOCK)


def goes_on(rig, kind, *words, **arguments):
    """The switchover fails while the last commit cannot come, and the writer goes on here."""
    writer = Writer(rig.alpha)
    writer.wait_writes()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield writer
        try:
            pool.submit(rig.alpha.execute, "switchover", **arguments).result(60)
            check(False, "it has moved though nothing can be committed")
        except Refused as e:
            check(e.kind == kind and all(w in str(e) for w in words), str(e))
    writer.wait_writes()
    writer.end()
    check(writer.last is None, "a write was refused though nothing has moved")
    writer.verify(rig.alpha)


def stand_still(process):
    """SIGSTOP, and every thread has seen it: one that still runs could commit."""
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        threads = [t.read_text().rsplit(")", 1)[1].split()[0] for t in pathlib.Path("/proc/%d/task" % process.pid).glob("*/stat")]
        if all(state == "T" for state in threads):
            return
        time.sleep(0.001)
    raise Failure("it does not stand still")


@scenario
def switchover_without_a_commit_in_time(rig):
    """The secondary stands still: the primary takes its role back, and the secondary promotes itself neither then nor later."""
    rig.begin()
    for _ in goes_on(rig, "timeout", "nothing has moved", timeout_ms=300):
        stand_still(rig.beta.process)
    rig.beta.process.send_signal(signal.SIGCONT)
    rig.meet(rig.alpha)
    rig.generation(rig.beta, rig.alpha.status()["generation"])
    hand_over(rig, rig.alpha, rig.beta)


@scenario
def switchover_and_the_secondary_dies(rig):
    rig.begin()
    for _ in goes_on(rig, "peer", "nothing has moved"):
        stand_still(rig.beta.process)
        killer = threading.Timer(0.5, rig.beta.process.send_signal, (signal.SIGKILL,))
        killer.start()
    killer.join()
    rig.beta.kill()
    rig.beta.start("secondary")
    rig.meet(rig.alpha)


def run(tandem, name, folder):
    rig, began = None, time.monotonic()
    try:
        rig = Rig(tandem, name, folder)
        scenarios[name](rig)
        rig.decode()
        rig.close(False)
        return None, time.monotonic() - began
    except (Failure, Refused, OSError, nbd.Error, subprocess.TimeoutExpired) as e:
        text = "%s\nsteps: %s\n" % (e, "; ".join(rig.steps) if rig else "")
        for node in rig.pair.nodes if rig else ():
            text += "--- %s\n%s" % (node.name, node.last_words())
        if rig:
            rig.close(True)
        return text, time.monotonic() - began


def main():
    if len(sys.argv) < 2 or sys.argv[1] == "--list":
        print("\n".join(scenarios) if len(sys.argv) > 1 else __doc__)
        return 0 if len(sys.argv) > 1 else 2
    tandem = os.path.realpath(os.path.join(sys.argv[1], "tandem"))
    names = sys.argv[2:] or list(scenarios)
    folder = os.environ.get("TANDEM_TEST_LOGS") or tempfile.mkdtemp(prefix="tandem-identity.")
    os.makedirs(folder, exist_ok=True)
    failed = 0
    print("1..%d" % len(names), flush=True)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for i, (name, (text, took)) in enumerate(zip(names, pool.map(lambda n: run(tandem, n, folder), names)), 1):
            print("%sok %d - %s # %.1f s" % ("not " if text else "", i, name.replace("_", " "), took), flush=True)
            if text:
                failed += 1
                print("# logs: %s\n# %s" % (os.path.join(folder, name), text.replace("\n", "\n# ")), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
