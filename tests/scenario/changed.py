#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk that others have changed while its node did not run: an older copy put back (also under the same name, in the same
file), a byte of what was written last, another file after a crash: refused with the command that takes it, and then a full
sync.  No false alarm: a copy elsewhere, touched, renamed, a new start after a crash; metadata that is missing or newer.
usage: tests/scenario/changed.py BUILD_DIR [SEED]"""
import os
import shutil
import struct
import subprocess

from group import MIB, SECONDS, Group, Writer, differ, main, need, ok

SIZE = 32 * MIB
KEYS = "epoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 3000\njournal-size = 64M\n"
ROLE = {"alpha": "primary", "beta": "secondary"}


def refuses(g, node, *texts):
    """It does not start, and says so."""
    before = len(g.log(node))
    with open(g.path(node + ".log"), "ab") as log:
        code = subprocess.run([g.tandem, ROLE[node], g.conf, "--node", node], stdout=log, stderr=log, env=g.env,
                              timeout=SECONDS, check=False).returncode
    said = g.log(node)[before:]
    need(code != 0 and all(t in said for t in texts), node, "started, or says something else than", texts, ":", said)


def up(g, sync=None):
    """Both run, and are equal."""
    g.start("beta", "secondary")
    before = len(g.log("alpha")) if os.path.exists(g.path("alpha.log")) else 0
    g.start("alpha", "primary")
    g.until_state("alpha", "protected")
    if sync:
        need(sync in g.log("alpha")[before:], "no", sync, ":", g.log("alpha")[before:])
    g.ask("alpha", "cut", wait="committed")
    d = differ(g.read("alpha"), g.read("beta"))
    need(not d, "the nodes differ:", d)


def write(g, seed, n=60):
    w = Writer(g.uri("alpha"), SIZE, seed, g.read("alpha"))
    w.start()
    w.wait_writes(n)
    w.stop()
    need(not w.error, "the writer failed:", w.error)
    w.nbd.shutdown()
    g.ask("alpha", "cut", wait="committed")


def down(g):
    g.end("alpha")
    g.end("beta")


def replaced(g, seed):
    g.init("alpha", "beta")
    up(g)
    write(g, seed)
    down(g)
    for node in ROLE:
        shutil.copy(g.image(node), g.path(node + ".backup"))
    up(g, "incremental sync")
    write(g, seed + 1)
    down(g)
    for node in ROLE:  # the same file, an older content
        now = g.path(node + ".now")
        shutil.copy(g.image(node), now)
        shutil.copyfile(g.path(node + ".backup"), g.image(node))
        refuses(g, node, "was changed by others since the last run", "resolve CONF --changed")
        shutil.copyfile(now, g.image(node))
    up(g, "incremental sync")
    ok("an older copy put back in the same file: refused on either side; the right one put back: as before")

    down(g)
    shutil.copyfile(g.path("beta.backup"), g.image("beta"))
    code, said = g.cli("resolve", "--changed", node="beta", check=False)
    need(code == 2 and "--yes" in said, "no question is asked: exit code", code, said)
    g.cli("resolve", "--changed", "--yes", node="beta")
    g.start("beta", "secondary")
    code, said = g.cli("promote", node="beta", check=False)
    need(code == 4, "a secondary whose disk was changed is promoted: exit code", code, said)
    g.end("beta")
    up(g, "full sync")
    ok("the secondary's older copy is taken: nothing to promote, a full sync, and both are equal")

    down(g)
    os.replace(g.path("alpha.backup"), g.image("alpha"))
    old = open(g.image("alpha"), "rb").read()
    refuses(g, "alpha", "was changed by others")
    g.cli("resolve", "--changed", "--yes", node="alpha")
    up(g, "full sync")
    need(g.read("beta") == old, "the restored disk is not on the secondary")
    write(g, seed + 2)
    ok("the primary's is taken: a full sync brings it to the secondary")


def no_alarm(g, seed):
    down(g)
    for node in ROLE:
        os.utime(g.image(node))
        os.chmod(g.image(node), 0o640)
        moved = g.path(node, "elsewhere.img")
        subprocess.run(["cp", "--reflink=auto", g.image(node), moved], check=True)
        os.unlink(g.image(node))
        os.rename(moved, g.image(node))
    up(g, "incremental sync")
    need("other storage than in the last run" in g.log("alpha"), "it was not seen as a copy")
    ok("touched, and copied elsewhere: the same disk, no alarm")
    write(g, seed + 3)
    g.kill("alpha")
    g.kill("beta")
    up(g)
    ok("killed and started anew: no alarm")
    for node in ROLE:
        g.kill(node)
        shutil.copyfile(g.image(node), g.path(node, "copy.img"))
        os.replace(g.path(node, "copy.img"), g.image(node))
        refuses(g, node, "is not the file or device of the last run", "resolve CONF --changed")
        g.cli("resolve", "--changed", "--yes", node=node)
        g.start(node, ROLE[node])
    g.until_state("alpha", "protected")
    ok("another file after a crash: refused, taken by command")


def dump(g, word, node):
    return subprocess.run([g.tandem, "meta", word, g.conf, "--node", node], check=True, capture_output=True, text=True).stdout


def metadata(g, _seed):
    """Missing, of a newer version: never taken for something else."""
    down(g)
    for node in ROLE:
        meta = g.path(node, "state", "group.meta")
        kept = g.path(node, "group.meta")
        os.rename(meta, kept)
        refuses(g, node, "not initialised")
        shutil.copy(kept, meta)
        with open(meta, "r+b") as f:  # a later version has written one of its slots
            data = bytearray(f.read())
            write_newer(f, data, 8192)
        refuses(g, node, "newer version")
        os.rename(kept, meta)
        path = g.path(node, "state", "vda.map")
        shutil.copy(path, path + ".kept")
        with open(path, "r+b") as f:
            write_newer(f, f.read(8192), 4096)
        refuses(g, node, "newer version")
        os.rename(path + ".kept", path)
        seal = g.path(node, "state", "vda.seal")
        with open(seal, "r+b") as f:
            data = f.read(4096)
            f.seek(0)
            f.write(newer(data))
        refuses(g, node, "newer version")
        with open(seal, "wb") as f:
            f.write(data)
        need("vda.seal is valid" in dump(g, "check", node) and "closed by an orderly end" in dump(g, "show", node),
             "tandem meta", dump(g, "show", node))
        with open(seal, "r+b") as f:  # damaged: nothing is known, and nothing is harmed
            f.write(b"x")
        code = subprocess.run([g.tandem, "meta", "check", g.conf, "--node", node], stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, check=False).returncode
        need(code == 6, "meta check of a damaged seal: exit code", code)
    up(g, "incremental sync")
    need("whether others have changed disk vda is not known" in g.log("alpha"), "no word of a damaged seal")
    ok("metadata, map or seal missing or of a newer version: refused, and unharmed")
    down(g)
    os.unlink(g.path("alpha", "state", "vda.map"))
    up(g, "full sync")
    need("missing" in g.log("alpha"), "nothing is said of the missing map")
    ok("a missing dirty map: made anew with a warning, and a full sync")


def write_newer(f, data, unit):
    """Of two copies, each with a serial at 16, the one that does not count becomes one of a later version."""
    last = struct.unpack_from("<Q", data, unit + 16)[0] > struct.unpack_from("<Q", data, 16)[0]
    f.seek(0 if last else unit)
    f.write(newer(data[unit * last:unit * last + unit]))


def newer(unit):
    """The same with a lowest compatible version that nobody knows; checksum at its end."""
    data = bytearray(unit)
    struct.pack_into("<II", data, 8, 99, 99)
    struct.pack_into("<I", data, len(data) - 4, crc32c(bytes(data[:-4])))
    return bytes(data)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def scenario(build, seed):
    g = Group(build, keys=KEYS, size=SIZE)
    failed = True
    try:
        for part in (replaced, no_alarm, metadata):
            part(g, seed)
        failed = False
    finally:
        g.close(failed)


main(scenario)
