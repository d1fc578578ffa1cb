"""Power cuts: what was acknowledged is on the disk when everything stops at once.

usage: powercut.py HONE REPOSITORY BUILD [--cuts N] [--seed S]

An RL run works on an ext4 file system in an image file. At a random time its processes are stopped and the image is copied: what
the disk would hold after a power cut then. The copy is mounted, which replays its journal, and checked: the log opens, every
trajectory that an actor was told is safe is in it, the audit balances, and the newest whole checkpoint has every batch that
the log calls durable. A writer of commits is cut in the same way: none of those it was told are safe is missing. The control, a
log that is not synced, must lose some. Needs root, loop devices and mkfs.ext4; else it says so and is skipped.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from small_recipe import small_recipe

IMAGE_BYTES = 300 << 20
OVERRIDES = ["stages=[rl]", "eval.enabled=false", "rl.staleness_max=1", "pools.actors.workers=2", "rl.steps=100000",
             "rl.prompts_per_step=2", "rl.group_size=2", "rl.checkpoint_steps=1", "rl.keep_checkpoints=2",
             "rl.actor.slots=8", "rl.sampling.max_completion_tokens=12", "rl.objective.kl_limit=0"]
SKIPPED = 77


class Failure(Exception):
    pass


def call(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Failure("%s: %s%s" % (" ".join(command), result.stdout[-500:], result.stderr[-1500:]))
    return result.stdout


class Disk:
    """A file system in a file, and copies of it as a power cut leaves it."""

    def __init__(self, scratch, name):
        self.image = os.path.join(scratch, name + ".img")
        self.mounted = os.path.join(scratch, name)
        self.copy, self.copied = self.image + ".cut", self.mounted + ".cut"
        os.mkdir(self.mounted)
        os.mkdir(self.copied)

    def make(self):
        with open(self.image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        call("mkfs.ext4", "-q", "-F", self.image)
        call("mount", "-o", "loop", self.image, self.mounted)

    def cut(self):
        call("cp", "--sparse=always", self.image, self.copy)

    def mount_cut(self):
        call("mount", "-o", "loop", self.copy, self.copied)

    def unmount_cut(self):
        call("umount", self.copied)

    def release(self):
        for directory in (self.copied, self.mounted):
            subprocess.run(["umount", "-l", directory], stderr=subprocess.DEVNULL)


class Writer:
    """Commits as fast as the disk lets it; `acked` is the newest that was acknowledged."""

    def __init__(self, rig, disk, environment):
        self.rig, self.disk = rig, disk
        self.output = disk.image + ".acked"
        with open(self.output, "wb") as file:
            self.child = subprocess.Popen([rig.tool, "--write", os.path.join(disk.mounted, "log")], stdout=file,
                                          env=dict(os.environ, **environment))

    def acked(self):
        with open(self.output) as file:
            lines = file.read().split("\n")
        return int(lines[-2]) if len(lines) > 1 else 0

    def cut(self):
        """(acknowledged, there after the cut)"""
        self.child.send_signal(signal.SIGSTOP)
        acked = self.acked()
        self.disk.cut()
        self.child.send_signal(signal.SIGCONT)
        self.disk.mount_cut()
        try:
            found = int(call(self.rig.tool, "--count", os.path.join(self.disk.copied, "log")))
        except Failure as failure:
            found = -1
            self.refusal = str(failure)
        self.disk.unmount_cut()
        return acked, found

    def end(self):
        self.child.kill()
        self.child.wait()


class Rig:
    def __init__(self, arguments, scratch):
        self.hone, self.repository = os.path.abspath(arguments.hone), arguments.repository
        self.tool = os.path.abspath(os.path.join(arguments.build, "tests/e2e/log_facts"))
        self.scratch, self.random = scratch, random.Random(arguments.seed)
        self.journal = os.path.join(scratch, "journal")
        self.runner = None

    def start_run(self, disk):
        recipe = small_recipe(call, self.hone, self.repository, self.scratch)
        self.run = os.path.join(disk.mounted, "run")
        output = open(os.path.join(self.scratch, "run.txt"), "wb")
        self.runner = subprocess.Popen([self.hone, "run", recipe, "output_dir=" + self.run] + OVERRIDES, stdout=output,
                                       stderr=output, env=dict(os.environ, HONE_JOURNAL=self.journal))
        end = time.monotonic() + 120
        while not os.path.exists(self.journal) or os.path.getsize(self.journal) < 200:
            if self.runner.poll() is not None or time.monotonic() > end:
                with open(os.path.join(self.scratch, "run.txt"), errors="replace") as file:
                    raise Failure("the run does not start: " + file.read()[-2000:])
            time.sleep(0.1)

    def processes(self):
        found = subprocess.run(["pgrep", "-f", "--", "--run " + self.run], stdout=subprocess.PIPE, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def cut_run(self, disk):
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        kept = self.journal + ".cut"
        shutil.copy(self.journal, kept)
        disk.cut()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        disk.mount_cut()
        try:
            run = os.path.join(disk.copied, "run")
            log = os.path.join(run, "rl/log")
            # As the hub does when it comes back: it opens the log for writing, which repairs a torn tail.
            call(self.tool, "--open", log)
            call(self.hone, "audit", run)
            acked = call(self.tool, log, "--acked", kept)
            durable = sum(1 for line in call(self.tool, log).splitlines() if line.split()[2] == "durable")
            newest = int(call(self.tool, "--checkpoint", os.path.join(run, "rl/checkpoints")))
            if newest < durable:
                raise Failure("batch %d is durable and the newest whole checkpoint is %d" % (durable, newest))
            return "%s; %d batches durable, checkpoint %d whole" % (acked.strip(), durable, newest)
        finally:
            disk.unmount_cut()

    def end(self):
        if self.runner is not None:
            self.runner.kill()
            self.runner.wait()


def cut_runs(rig, disk, cuts):
    rig.start_run(disk)
    for _ in range(cuts):
        time.sleep(rig.random.uniform(0.05, 1.0))
        last = rig.cut_run(disk)
        if rig.runner.poll() is not None:
            raise Failure("the run has ended")
    rig.end()
    print("%d cuts of a run: last one: %s" % (cuts, last))


def cut_writer(rig, disk, cuts, environment):
    """How many cuts lost something that was acknowledged, or left a log that is refused."""
    writer = Writer(rig, disk, environment)
    losses, total = 0, 0
    try:
        for _ in range(cuts):
            before, end = writer.acked(), time.monotonic() + 30
            time.sleep(rig.random.uniform(0.05, 0.5))
            while writer.acked() == before and time.monotonic() < end:
                time.sleep(0.01)
            acked, found = writer.cut()
            total = acked
            if found < acked:
                losses += 1
                if not environment:
                    raise Failure("%d commits were acknowledged, %d are there" % (acked, found))
    finally:
        writer.end()
    print("%d cuts of a writer%s: %d of them lost something, %d commits acknowledged" %
          (cuts, " that does not sync" if environment else "", losses, total))
    return losses


def possible():
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return "needs root and mkfs.ext4"
    return None


def main():
    parser = argparse.ArgumentParser()
    for name in ("hone", "repository", "build"):
        parser.add_argument(name)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if possible():
        print("skipped: power cuts: %s" % possible())
        return SKIPPED
    base = os.environ.get("TMPDIR") or ("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    scratch = tempfile.mkdtemp(prefix="hone-powercut.", dir=base)
    rig = Rig(arguments, scratch)
    disks = [Disk(scratch, name) for name in ("run", "writer", "unsynced")]
    try:
        try:
            disks[0].make()
        except Failure as failure:
            print("skipped: power cuts: no file system in a loop device: %s" % failure)
            return SKIPPED
        cut_runs(rig, disks[0], arguments.cuts // 2)
        disks[1].make()
        cut_writer(rig, disks[1], arguments.cuts - arguments.cuts // 2, {})
        disks[2].make()
        if cut_writer(rig, disks[2], 5, {"HONE_BREAK": "log.sync"}) == 0:
            raise Failure("control: a log that is not synced lost nothing")
    except Failure as failure:
        print("FAILED (seed %d): %s" % (arguments.seed, failure), file=sys.stderr)
        return 1
    finally:
        rig.end()
        for disk in disks:
            disk.release()
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
