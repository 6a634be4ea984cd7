# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmarks share: two Tandem nodes on this machine, other NBD servers to compare with, their
CPU time and memory from /proc, and fio.  Every process that is started here is ended by close()."""

import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Trouble(Exception):
    """Ends a benchmark with a message; nothing of its output counts."""


def size_of(text):
    """4G, 512M, 64K or bytes, as a number."""
    digits = text.rstrip("KMGkmg")
    return int(digits) * UNITS[text[len(digits):].upper()]


def until(seconds, what, test):
    """Polls for an event that has no other way to be waited for."""
    end = time.monotonic() + seconds
    while not (value := test()):
        if time.monotonic() > end:
            raise Trouble(f"{what}: not within {seconds} s")
        time.sleep(0.002)
    return value


def median(values):
    return statistics.median(values) if values else None


def free_ports(count):
    """Ports of 127.0.0.1 that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cpu_of(pid):
    """Seconds of CPU of a process, all its threads, ended ones too."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_busy():
    """Seconds of CPU that the whole machine spent on work since boot."""
    with open("/proc/stat", encoding="ascii") as f:
        t = [int(v) for v in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / TICK


def machine():
    """What the figures were measured on."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break

    def first_line(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "cpu": model,
        "kernel": os.uname().release,
        "nbdkit": first_line("nbdkit", "--version"),
        "fio": first_line("fio", "--version"),
        "load": os.getloadavg()[0],
    }


def link_bytes(port):
    """Bytes that the primary has sent in the one established connection to that port, each once: what a busy machine made TCP
    send again (tens of KB to 1 MB in a run of 64 MiB) says nothing about Tandem."""
    out = subprocess.run(["ss", "-tinOH", "state", "established", f"dport = :{port}"], capture_output=True, text=True,
                         check=True).stdout
    sent = [int(n) for n in re.findall(r"bytes_sent:(\d+)", out)]
    if len(sent) != 1:
        raise Trouble(f"ss shows {len(sent)} connections to the secondary")
    return sent[0] - sum(int(n) for n in re.findall(r"bytes_retrans:(\d+)", out))


def flush_file(path):
    fd = os.open(path, os.O_RDWR)
    os.fdatasync(fd)
    os.close(fd)


class Control:
    """The control interface of a node (docs/control.md)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()

    def ask(self, command, **arguments):
        json.dump({"execute": command, "arguments": arguments}, self.file)
        self.file.write("\n")
        self.file.flush()
        answer = json.loads(self.file.readline() or "{}")
        if "return" not in answer:
            raise Trouble(f"{command}: {answer.get('error', 'the node has gone')}")
        return answer["return"]

    def close(self):
        self.file.close()
        self.socket.close()


class Server:
    """A process that serves an NBD export until close()."""

    def __init__(self, command, log, uri=None, cwd=None):
        self.uri = uri
        self.log = log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                raise Trouble(f"{self.process.args[0]} ended with {self.process.returncode}: {f.read()[-800:]}")
        return True

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Rig:
    """A directory on a file system for the images of the primary and of what it is compared with, and one
    on tmpfs for the secondary."""

    def __init__(self, build, image_dir):
        self.tandem = os.path.join(os.path.realpath(build), "tandem")
        if not os.access(self.tandem, os.X_OK):
            raise Trouble(f"there is no {self.tandem}: build it with meson and ninja first")
        self.dir = tempfile.mkdtemp(prefix="tandem-bench.", dir=image_dir)
        self.fast_dir = tempfile.mkdtemp(prefix="tandem-bench.", dir="/dev/shm")
        self.servers = []
        self.controls = {}
        self.nodes = {}
        self.ports = {}
        self.conf = None

    def image(self, name, size, content="random"):
        """content: "random" (allocated), "sparse", or a function that fills the open file.  Random content is
        written in pieces of 4 KiB, so that the page cache holds it in pages of 4 KiB: ext4 walks every block
        of a large folio at each write to it, and that would be most of what is measured."""
        path = os.path.join(self.dir, name)
        with open(path, "wb", buffering=0) as f:
            os.ftruncate(f.fileno(), size)
            if content == "random":
                noise = memoryview(os.urandom(1 << 20))
                for _ in range(size >> 12):
                    at = random.randrange((1 << 20) - 4096)
                    f.write(noise[at:at + 4096])
            elif content != "sparse":
                content(f)
            os.fsync(f.fileno())
        return path

    def add(self, server):
        self.servers.append(server)
        return server

    def nbdkit(self, *arguments, threads=16):
        """nbdkit with a plugin of its own, to compare with."""
        path = os.path.join(self.dir, f"nbdkit{len(self.servers)}.sock")
        server = self.add(Server(["nbdkit", "-f", "-U", path, "-t", str(threads), *arguments],
                                 os.path.join(self.dir, "nbdkit.log"), f"nbd+unix:///?socket={path}"))
        until(10, "nbdkit", lambda: server.alive() and os.path.exists(path))
        return server

    def configure(self, image, copy, guest="", **group):
        """Writes the configuration of a group whose one disk is image on alpha and copy on beta; guest: the
        lines of its [guest]."""
        self.ports = dict(zip(("alpha", "beta"), free_ports(2)))
        lines = ["[group]", "name = bench"]
        lines += [f"{key.replace('_', '-')} = {value}" for key, value in group.items()]
        for name, base, backing in (("alpha", self.dir, image), ("beta", self.fast_dir, copy)):
            lines += [f"[node {name}]", f"link = 127.0.0.1:{self.ports[name]}", f"state-dir = {base}/{name}",
                      f"run-dir = {base}/{name}.run", f"disk.vda = {backing}"]
        lines += ["[guest]", guest] if guest else []
        self.conf = os.path.join(self.dir, "bench.conf")
        with open(self.conf, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
        for name in ("alpha", "beta"):
            subprocess.run([self.tandem, "init", self.conf, "--node", name, "--force"], check=True,
                           stdout=subprocess.DEVNULL)

    def run_dir(self, node):
        return f"{self.dir if node == 'alpha' else self.fast_dir}/{node}.run"

    def start(self, node, role, environment=None, cwd=None):
        command = [self.tandem, role, self.conf, "--node", node]
        if environment:
            command = ["env", *(f"{k}={v}" for k, v in environment.items()), *command]
        run_dir = self.run_dir(node)
        server = self.add(Server(command, f"{self.dir}/{node}.log",
                                 f"nbd+unix:///vda?socket={run_dir}/nbd.sock", cwd))
        path = f"{run_dir}/control.sock"

        def connected():
            server.alive()
            try:
                return Control(path)
            except OSError:
                return None

        self.controls[node] = until(20, f"node {node}", connected)
        self.nodes[node] = server
        return server

    def stop(self, node):
        self.controls.pop(node).close()
        self.nodes.pop(node).close()

    def port(self, node):
        return self.ports[node]

    def state(self, node):
        return self.controls[node].ask("query-status")

    def until_state(self, node, state, seconds=300):
        return until(seconds, f"node {node} to be {state}",
                     lambda: (s := self.state(node))["state"] == state and s)

    def settle(self):
        """Everything written by now is in the secondary's image."""
        self.controls["alpha"].ask("cut", wait="committed", **{"timeout-ms": 120000})
        until(120, "the secondary to apply its journal", lambda: self.state("beta")["journal"]["unapplied"] == 0)

    def close(self):
        for control in self.controls.values():
            control.close()
        for server in reversed(self.servers):
            server.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.fast_dir, ignore_errors=True)


class FioJob:
    """One fio job over NBD, in the background."""

    def __init__(self, uri, size, seconds=None, **job):
        command = ["fio", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--size={size}", "--output-format=json",
                   "--randrepeat=0", "--group_reporting=1"]
        if seconds:
            command += ["--time_based=1", f"--runtime={round(seconds * 1000)}ms"]
        command += [f"--{key}={value}" for key, value in job.items()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self):
        """Its job object of fio's JSON, once it has ended."""
        out, errors = self.process.communicate()
        if self.process.returncode != 0:
            raise Trouble(f"fio failed: {errors or out}")
        return json.loads(out[out.index("{"):])["jobs"][0]


def fio(uri, size, seconds=None, **job):
    """The result of a FioJob."""
    return FioJob(uri, size, seconds, **job).result()
