#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole controller of a VM group, for authors of a VMM: see docs/control.md, "VM groups".

The "virtual machine" is made up: RAM is a memfd, its one disk is written over NBD, and its program
takes numbered steps, each of which writes one sector of the disk and one page of RAM.  So after any
number of steps it is known what RAM, disk and registers must hold, and a takeover can be checked.

  vmm.py run RUN_DIR [--steps N] [--checkpoint-every N] [--abandon-every N]
      runs the machine on the primary whose run-dir that is; prints "committed STEP" for every step
      that may be shown to the outside, until N steps are done and committed (0 = until killed)
  vmm.py takeover RUN_DIR [--disks-only] [--at-least STEP] [--steps N]
      promotes the secondary, resumes the machine there and checks that RAM, disk and registers are
      of the same step, no older than STEP; runs on for N steps
"""
import argparse
import array
import json
import mmap
import os
import socket
import struct
import sys

import nbd

PAGE = 4096
SECTOR = 4096
ZERO = 2**64 - 1
BASE_STATE = b"what never changes of a machine's state; sent once per session " * 512


class Refused(Exception):
    """The node answered with an error; kind as in docs/control.md."""

    def __init__(self, error):
        super().__init__(error["desc"])
        self.kind = error["kind"]


class Control:
    """The control interface: requests, answers in any order, events, file descriptors."""

    def __init__(self, run_dir):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.path.join(run_dir, "control.sock"))
        self.input = b""
        self.fds = []
        self.next_id = 0
        self.answers = {}
        self.events = []
        self.greeting = self._message()

    def _message(self):
        while b"\n" not in self.input:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(8 * 4))
            if not data:
                raise ConnectionError("the node is gone")
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    got = array.array("i")
                    got.frombytes(payload)
                    self.fds += got
            self.input += data
        line, self.input = self.input.split(b"\n", 1)
        return json.loads(line)

    def _take(self):
        message = self._message()
        if "event" in message:
            self.events.append(message)
        else:
            self.answers[message["id"]] = message

    def request(self, name, fds=(), **arguments):
        """Sends a request, does not wait; the answer is fetched with answer()."""
        self.next_id += 1
        line = json.dumps({"execute": name, "id": self.next_id, "arguments":
                           {k.replace("_", "-"): v for k, v in arguments.items()}}) + "\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.socket.sendmsg([line.encode()], rights)
        self.socket.sendall(line.encode()[sent:])
        return self.next_id

    def answer(self, request):
        while request not in self.answers:
            self._take()
        message = self.answers.pop(request)
        if "error" in message:
            raise Refused(message["error"])
        return message["return"]

    def call(self, name, fds=(), **arguments):
        return self.answer(self.request(name, fds, **arguments))

    def fd(self):
        """The descriptor that came with the answer just fetched."""
        return self.fds.pop(0)

    def poll_events(self):
        """What has come and is not looked at yet: asks for the status, whose answer is behind it."""
        self.call("query-status")
        events, self.events = self.events, []
        return events


class Machine:
    """RAM, registers and disk of the made-up machine, and its program."""

    def __init__(self, size, ram_fd, disk, steps=0):
        self.size, self.ram_fd, self.disk, self.steps = size, ram_fd, disk, steps
        self.ram = mmap.mmap(ram_fd, size)
        self.dirty = set()

    @staticmethod
    def page_of(step, pages):
        return 1 + step * 7919 % (pages - 1)

    @staticmethod
    def content(step):
        """Mostly one value, as memory often is; every third step something that does not compress."""
        if step % 3:
            return struct.pack("<Q", step) * (PAGE // 8)
        out, x = bytearray(), step
        for _ in range(PAGE // 8):
            x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
            out += struct.pack("<Q", x)
        return bytes(out)

    def step(self):
        self.steps += 1
        sector = self.steps % (self.disk.get_size() // SECTOR)
        self.disk.pwrite(struct.pack("<Q", self.steps) * (SECTOR // 8), sector * SECTOR)
        page = self.page_of(self.steps, self.size // PAGE)
        # Every eleventh step gives a page back: it is zero again.
        data = bytes(PAGE) if self.steps % 11 == 0 else self.content(self.steps)
        self.ram[page * PAGE:(page + 1) * PAGE] = data
        self.ram[0:8] = struct.pack("<Q", self.steps)
        self.dirty |= {0, page}

    def registers(self):
        return struct.pack("<Q", self.steps) + b"registers" * (self.steps % 100)

    def check(self):
        """RAM and disk hold exactly what this many steps leave.  Returns what is wrong, or None."""
        pages, sectors = self.size // PAGE, self.disk.get_size() // SECTOR
        if struct.unpack("<Q", self.ram[0:8])[0] != self.steps:
            return "RAM is at step %d, the registers at %d" % (
                struct.unpack("<Q", self.ram[0:8])[0], self.steps)
        newest = {self.page_of(i, pages): i for i in range(1, self.steps + 1)}
        for page in range(1, pages):
            have = self.ram[page * PAGE:(page + 1) * PAGE]
            step = newest.get(page, 0)
            if have != (bytes(PAGE) if step % 11 == 0 else self.content(step)):
                return "page %d is not what step %d left" % (page, step)
        newest = {i % sectors: i for i in range(1, self.steps + 1)}
        for sector in range(sectors):
            have = self.disk.pread(SECTOR, sector * SECTOR)
            if have != struct.pack("<Q", newest.get(sector, 0)) * (SECTOR // 8):
                return "sector %d is not what step %d left, it holds %d" % (
                    sector, newest.get(sector, 0), struct.unpack_from("<Q", have)[0])
        return None


def open_disk(run_dir):
    disk = nbd.NBD()
    disk.set_export_name("vda")
    disk.connect_unix(os.path.join(run_dir, "nbd.sock"))
    return disk


def run_table(runs):
    return b"".join(struct.pack("<QQQ", *run) for run in runs)


class Checkpointer:
    """Makes the checkpoints of a machine; two memfds in turn, so that one may be in transit."""

    def __init__(self, control, machine):
        self.control, self.machine = control, machine
        self.memfds = [os.memfd_create("checkpoint-%d" % i) for i in range(2)]
        self.busy = [[], []]  # requests that must be answered before the memfd is used again
        self.turn = 0
        self.step_of = {}  # epoch -> step whose output may leave when it is committed
        self.base_sent = False
        self.left = set()  # dirty pages of an abandoned checkpoint

    def send_everything(self, epoch):
        """All of RAM, straight from where it is, while the machine runs (here: stands)."""
        table = os.memfd_create("table")
        os.write(table, run_table([(0, self.machine.size, 0)]))
        self.machine.dirty.clear()
        got = self.control.call("submit", [table, self.machine.ram_fd], epoch=epoch, runs=1)
        os.close(table)
        print("sent all memory for epoch %d: %d bytes, %d of them zero, %d in the stream" %
              (epoch, got["bytes"], got["zero"], got["sent"]), flush=True)
        self.base_sent = False

    def checkpoint(self, fail=False):
        machine, control = self.machine, self.control
        control.call("checkpoint-begin")
        # The machine stands still from here: this program does not call step() meanwhile.
        machine.disk.flush()  # as QEMU does when it stops; answered at once
        epoch = control.call("cut")["epoch"]
        pages, machine.dirty = sorted(machine.dirty | self.left), set()
        self.left = set()
        if fail:  # the state could not be saved, say
            self.left = set(pages)
            control.call("abandon", epoch=epoch)
            return
        for request in self.busy[self.turn]:
            control.answer(request)
        memfd = self.memfds[self.turn]
        runs = [(p * PAGE, PAGE, 24 * len(pages) + i * PAGE) for i, p in enumerate(pages)]
        data = b"".join(machine.ram[p * PAGE:(p + 1) * PAGE] for p in pages)
        state = (b"" if self.base_sent else BASE_STATE) + machine.registers()
        os.ftruncate(memfd, 0)
        os.pwrite(memfd, run_table(runs) + data + state, 0)
        self.step_of[epoch] = machine.steps
        # ... to here.  The rest needs nothing of the machine.
        self.busy[self.turn] = [
            control.request("submit", [memfd], epoch=epoch, runs=len(runs), state_bytes=len(state),
                            state_data=24 * len(pages) + len(data),
                            state_offset=len(BASE_STATE) if self.base_sent else 0),
            control.request("seal", epoch=epoch)]
        self.base_sent = True
        self.turn = 1 - self.turn

    def committed(self, epoch):
        """Steps up to which output may leave."""
        steps = [s for e, s in self.step_of.items() if e <= epoch]
        self.step_of = {e: s for e, s in self.step_of.items() if e > epoch}
        return max(steps, default=None)


def ready(control):
    """A session runs, and the disks are copied: checkpoints can be made."""
    status = control.call("query-status")
    return status["link"]["connected"] and status["checkpoint"]["disks-in-sync"]


def run(args):
    control, disk = Control(args.run_dir), open_disk(args.run_dir)
    size = control.call("query-status")["checkpoint"]["memory"]
    ram = os.memfd_create("ram")
    os.ftruncate(ram, size)
    machine = Machine(size, ram, disk)
    control.call("events", enable=True)
    shown, checkpoints, checkpointer = 0, 0, None
    while args.steps == 0 or shown < args.steps:
        if args.steps == 0 or machine.steps < args.steps:
            for _ in range(args.checkpoint_every):
                machine.step()
        try:
            if not checkpointer and ready(control):
                checkpointer = Checkpointer(control, machine)
                checkpointer.send_everything(control.call("query-status")["epoch"]["open"])
            if checkpointer:
                checkpoints += 1
                checkpointer.checkpoint(args.abandon_every and
                                        checkpoints % args.abandon_every == 0)
        except Refused as e:
            if e.kind not in ("state", "peer") or ready(control):
                raise
        for event in control.poll_events():
            if event["event"] == "EPOCH_COMMITTED" and checkpointer:
                shown = checkpointer.committed(event["data"]["epoch"]) or shown
                print("committed %d" % shown, flush=True)
            elif event["event"] == "SESSION" and not event["data"]["connected"]:
                # It goes on alone; with the next session everything is sent anew.
                print("the secondary is gone at step %d" % machine.steps, flush=True)
                checkpointer = None
    return 0


def takeover(args):
    control = Control(args.run_dir)
    promoted = control.call("promote", **({"disks_only": True} if args.disks_only else {}))
    print("promoted at epoch %d, generation %d" % (promoted["epoch"], promoted["generation"]))
    disk = open_disk(args.run_dir)
    if args.disks_only:
        disk.pwrite(disk.pread(SECTOR, 0), 0)
        print("the disk can be written")
        return 0
    memory = control.call("query-memory")
    ram = control.fd()
    state = control.call("query-state")
    with os.fdopen(control.fd(), "rb") as blob:
        saved = blob.read()
    if not memory["epoch"] == state["epoch"] == promoted["epoch"]:
        print("epochs differ: memory %d, state %d" % (memory["epoch"], state["epoch"]))
        return 1
    if not saved.startswith(BASE_STATE):
        print("the part of the state that was sent once is damaged")
        return 1
    saved = saved[len(BASE_STATE):]
    machine = Machine(memory["size"], ram, disk, struct.unpack_from("<Q", saved)[0])
    wrong = machine.check()
    if not wrong and saved != machine.registers():
        wrong = "the registers are damaged"
    if not wrong and machine.steps < args.at_least:
        wrong = "step %d was shown, the machine is at %d" % (args.at_least, machine.steps)
    if wrong:
        print("RAM, disk and state do not agree: " + wrong)
        return 1
    print("RAM, disk and state agree: step %d" % machine.steps)
    for _ in range(args.steps):
        machine.step()
    disk.flush()
    wrong = machine.check()
    print("it runs on: " + (wrong or "step %d" % machine.steps))
    control.call("release-memory")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("run_dir")
    one.add_argument("--steps", type=int, default=0)
    one.add_argument("--checkpoint-every", type=int, default=50)
    one.add_argument("--abandon-every", type=int, default=0)
    one.set_defaults(function=run)
    one = commands.add_parser("takeover")
    one.add_argument("run_dir")
    one.add_argument("--at-least", type=int, default=0)
    one.add_argument("--disks-only", action="store_true")
    one.add_argument("--steps", type=int, default=100)
    one.set_defaults(function=takeover)
    args = parser.parse_args()
    try:
        return args.function(args)
    except Refused as e:
        print("refused (%s): %s" % (e.kind, e), file=sys.stderr)
        return 4
    except ConnectionError as e:
        print("the node is gone: %s" % e, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
