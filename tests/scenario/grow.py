#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that become larger: online on both sides while a writer writes, whatever the new parts hold on each side; a secondary
that is too small is asked first and refused without harm; each side dies at each step of it; alone; by a restart.
usage: tests/scenario/grow.py BUILD_DIR [SEED]"""
import os
import random
import subprocess

from group import MIB, SECONDS, Group, Writer, differ, main, need, ok, pattern, until

SIZE = 16 * MIB
KEYS = "epoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 3000\njournal-size = 64M\n"
PRIMARY_POINTS = ("grow-map", "grow-header", "grow-metadata", "grow-copied")
SECONDARY_POINTS = ("grow-map", "grow-header", "grow-metadata", "grow-answered")


def enlarge(g, node, size, disk="vda", number=None):
    """The image gets a new part: random content, so that what is not copied shows."""
    with open(g.image(node, disk), "r+b") as f:
        f.seek(0, os.SEEK_END)
        old = f.tell()
        f.truncate(size)
        if number is not None:  # else it is a hole
            f.seek(old)
            f.write(pattern(number, 0, (size - old) // 2))


def size_of(g, node, disk="vda"):
    h = g.connect(node, disk)
    try:
        return h.get_size()
    finally:
        h.shutdown()


def equal(g, size, *disks, what):
    """Both nodes show the same disk of that size."""
    g.ask("alpha", "cut", wait="committed")
    for disk in disks:
        a, b = g.read("alpha", disk), g.read("beta", disk)
        need(len(a) == size, what, ":", disk, "has", len(a), "bytes, not", size)
        d = differ(a, b)
        need(not d, what, ":", disk, "is not the same on both nodes:", d)


def refused(g, code, text, *args, node="alpha"):
    have, said = g.cli("grow", *args, node=node, check=False)
    need(have == code and text in said, "tandem grow", *args, ": exit code", have, "instead of", code, "and says", said)


def arm(g, node, point=None):
    """The node dies at that point; None: at none."""
    path = g.path(node + ".fault")
    if point:
        with open(path + ".new", "w", encoding="ascii") as f:
            f.write(point)
        os.rename(path + ".new", path)
    elif os.path.exists(path):
        os.unlink(path)


def start(g, node, role):
    plain = g.env
    g.env = dict(plain or os.environ, TANDEM_FAULT="@" + g.path(node + ".fault"))
    try:
        g.start(node, role)
    finally:
        g.env = plain


def begin(g):
    g.init("alpha", "beta")
    start(g, "beta", "secondary")
    start(g, "alpha", "primary")
    g.until_state("alpha", "protected")


def online(g, rng):
    begin(g)
    refused(g, 4, "no disk is larger")
    refused(g, 4, "only on the primary", node="beta")
    refused(g, 2, "no disk \"vdx\"", "--disk", "vdx")
    session = g.status("alpha")["generation"]
    enlarge(g, "alpha", 2 * SIZE + 12345, number=1)
    refused(g, 4, "enlarge it there first")
    need(size_of(g, "alpha") == SIZE and g.status("alpha")["state"] == "protected" and
         g.status("alpha")["generation"] == session, "a refusal has changed something:", g.status("alpha"))
    need("link" not in g.log("beta").split("accepted", 1)[1], "the link was lost for a question:", g.log("beta"))
    ok("a secondary that is too small is asked first: refused, and nothing has changed")

    writers = {d: Writer(g.uri("alpha", d), SIZE, rng.random()) for d in ("vda", "vdb")}
    for w in writers.values():
        w.start()
        w.wait_writes(50, beyond=10 ** 9)
    enlarge(g, "beta", 2 * SIZE + 12345, number=2)
    out = g.cli("grow", "--disk", "vda", node="alpha")
    need("disk vda has grown from %d to %d bytes" % (SIZE, 2 * SIZE + 12345) in out, "it says", out)
    enlarge(g, "alpha", 3 * SIZE)
    enlarge(g, "beta", 4 * SIZE, number=3)
    enlarge(g, "alpha", 2 * SIZE, "vdb", number=4)
    enlarge(g, "beta", 2 * SIZE, "vdb")
    out = g.cli("grow", node="alpha")
    need(out.count("has grown") == 2, "two have grown, and it says", out)
    last = g.ask("alpha", "query-grow")
    need(last["state"] == "done" and set(last["disks"]) == {"vda", "vdb"} and last["done"] == last["total"], "query-grow:", last)
    for w in writers.values():
        w.wait_writes(50, beyond=10 ** 9)
    for d in ("vda", "vdb"):
        h = g.connect("alpha", d)
        h.pwrite(pattern(5, 0, MIB), h.get_size() - MIB)
        h.shutdown()
    for w in writers.values():
        w.stop()
        need(not w.error, "a writer failed:", w.error)
        w.nbd.shutdown()
    g.ask("alpha", "cut", wait="committed")
    need(g.cli("verify", node="alpha").startswith("the disks"), "they differ")
    for d, size in (("vda", 3 * SIZE), ("vdb", 2 * SIZE)):
        a, b = g.read("alpha", d), g.read("beta", d)
        need(len(a) == size, d, "has", len(a), "bytes")
        need(not differ(a, b[:size]), d, ":", differ(a, b[:size]))
        need(bytes(writers[d].content) == a[:SIZE], d, "has lost a write")
        need(a[-MIB:] == pattern(5, 0, MIB), d, "has lost a write to its new part")
    need(all(g.status("alpha")["disks"][d]["dirty"] == 0 for d in ("vda", "vdb")), "something is dirty:", g.status("alpha"))
    ok("two disks grow while they are written to, twice; the new parts are the primary's on both sides")

    a = {d: g.read("alpha", d) for d in ("vda", "vdb")}
    g.kill("alpha")
    g.ask("beta", "promote")
    for d in a:
        b = g.read("beta", d)
        need(not differ(a[d], b[:len(a[d])]), "promoted:", d, differ(a[d], b[:len(a[d])]))
    start(g, "alpha", "secondary")  # vda is smaller here: 3 of 4
    until("the refusal", lambda: "enlarge it there" in g.status("beta")["reason"])
    enlarge(g, "alpha", 4 * SIZE, number=6)
    g.ask("beta", "connect")
    g.until_state("beta", "protected")
    g.ask("beta", "cut", wait="committed")
    need(not differ(g.read("alpha"), g.read("beta")), "rejoined:", differ(g.read("alpha"), g.read("beta")))
    ok("failover to the grown disks; the old primary is accepted as soon as its own disk is as large")
    enlarge(g, "beta", 3 * SIZE)
    code, said = g.cli("grow", node="beta", check=False)
    need(code == 4 and "has shrunk" in said, "a disk that has shrunk: exit code", code, said)
    enlarge(g, "beta", 4 * SIZE)
    ok("one that has shrunk is refused")


def alone(g, _rng):
    begin(g)
    g.ask("beta", "disconnect")
    g.until_state("alpha", "solo")
    enlarge(g, "alpha", 2 * SIZE, number=1)
    refused(g, 4, "--alone")
    g.cli("grow", "--alone", node="alpha")
    need(size_of(g, "alpha") == 2 * SIZE, "it has not grown")
    with g.control("beta") as c:
        c.execute("connect")
    g.ask("alpha", "connect")
    until("the refusal", lambda: "enlarge it there" in g.status("alpha")["reason"])
    need(size_of(g, "beta") == SIZE, "the secondary has changed")
    enlarge(g, "beta", 2 * SIZE, number=2)
    g.ask("alpha", "connect")
    g.until_state("alpha", "protected")
    equal(g, 2 * SIZE, "vda", what="grown alone")
    ok("grown alone; the secondary is accepted once its disk is as large, without a new start")
    for node in ("alpha", "beta"):  # both at once, at rest
        g.end(node)
        enlarge(g, node, 3 * SIZE, number=ord(node[0]))
    start(g, "beta", "secondary")
    start(g, "alpha", "primary")
    g.until_state("alpha", "protected")
    equal(g, 3 * SIZE, "vda", what="restarted")
    need("full sync" not in g.log("alpha").split("incremental sync", 1)[1], "a full sync", g.log("alpha"))
    ok("both enlarged at rest: the restart takes the new size, and copies the new part only")


def backed_by_nbd(build, rng):
    """The secondary's disk is an export of a server that tells the size when one connects."""
    g = Group(build, keys=KEYS, size=SIZE)
    failed = True
    try:
        sock = g.path("server.sock")
        g.daemon("nbdkit", "-f", "-U", sock, "file", g.image("beta"), name="server")
        until("the server", lambda: os.path.exists(sock))
        with open(g.conf, encoding="ascii") as f:
            text = f.read()
        with open(g.conf, "w", encoding="ascii") as f:
            f.write(text.replace("disk.vda = " + g.image("beta"), "disk.vda = nbd+unix:///?socket=" + sock))
        begin(g)
        w = Writer(g.uri("alpha"), SIZE, rng.random())
        w.start()
        w.wait_writes(20, beyond=10 ** 9)
        for node in ("alpha", "beta"):
            enlarge(g, node, 2 * SIZE, number=ord(node[0]))
        g.cli("grow", node="alpha")
        w.wait_writes(20)
        w.stop()
        need(not w.error, "the writer failed:", w.error)
        equal(g, 2 * SIZE, "vda", what="NBD backing")
        ok("an NBD backing is connected anew for its size")
        failed = False
    finally:
        g.close(failed)


def loop_device(path):
    """None where there can be none."""
    done = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def on_devices(build, rng):
    g = Group(build, keys=KEYS, size=SIZE)
    failed, devices = True, {}
    try:
        for node in ("alpha", "beta"):
            devices[node] = loop_device(g.image(node))
            if not devices[node]:
                failed = False
                print("ok - block devices # SKIP losetup makes none here", flush=True)
                return
        with open(g.conf, encoding="ascii") as f:
            text = f.read()
        with open(g.conf, "w", encoding="ascii") as f:
            for node, device in devices.items():
                text = text.replace("disk.vda = " + g.image(node) + "\n", "disk.vda = " + device + "\n")
            f.write(text)
        begin(g)
        w = Writer(g.uri("alpha"), SIZE, rng.random())
        w.start()
        w.wait_writes(20, beyond=10 ** 9)
        for node, device in devices.items():
            refused(g, 4, "no disk is larger" if node == "alpha" else "enlarge it there first")
            enlarge(g, node, 2 * SIZE, number=ord(node[0]))
            subprocess.run(["losetup", "--set-capacity", device], check=True)
        g.cli("grow", node="alpha")
        w.wait_writes(20)
        w.stop()
        need(not w.error, "the writer failed:", w.error)
        equal(g, 2 * SIZE, "vda", what="block devices")
        ok("block devices grow")
        failed = False
    finally:
        g.close(failed)
        for device in filter(None, devices.values()):
            subprocess.run(["losetup", "--detach", device], check=False)


def dies(g, node, point, size):
    """One of both dies in the growth to size; it ends up on both, equal."""
    for n in ("alpha", "beta"):
        enlarge(g, n, size, number=size % 251 + ord(n[0]))
    arm(g, node, point)
    g.cli("grow", node="alpha", check=False)
    need(g.procs[node].wait(SECONDS) == -9, node, "did not die at", point, g.log(node)[-1000:])
    arm(g, node)
    g.procs.pop(node)
    start(g, node, "primary" if node == "alpha" else "secondary")
    g.until_state("alpha", "protected")
    if size_of(g, "alpha") != size:
        g.cli("grow", node="alpha")
    equal(g, size, "vda", what="%s died at %s" % (node, point))
    need(g.status("alpha")["disks"]["vda"]["dirty"] == 0, "something stays dirty")
    for n in ("alpha", "beta"):  # what they have on disk is in order
        need("is damaged" not in g.log(n), g.log(n))
    ok("%s dies at %s: both sides have the new size, and are equal" % ("the primary" if node == "alpha" else "the secondary", point))


def scenario(build, seed):
    rng = random.Random(seed)
    for run, disks in ((online, ("vda", "vdb")), (alone, ("vda",))):
        g = Group(build, keys=KEYS, disks=disks, size=SIZE)
        failed = True
        try:
            run(g, rng)
            failed = False
        finally:
            g.close(failed)
    backed_by_nbd(build, rng)
    on_devices(build, rng)
    g = Group(build, keys=KEYS, size=SIZE)
    failed = True
    try:
        begin(g)
        size = SIZE
        for node, points in (("alpha", PRIMARY_POINTS), ("beta", SECONDARY_POINTS)):
            for point in points:
                size += 3 * MIB + 4096
                dies(g, node, point, size)
        failed = False
    finally:
        g.close(failed)


main(scenario)
