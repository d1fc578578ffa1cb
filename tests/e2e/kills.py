"""kill -9 of every role of an RL run, at random times and at named points, many times over.

usage: kills.py HONE REPOSITORY BUILD [--kills N] [--seed S]

Synchronous runs of a few batches are started again and again, each process by this driver, which kills single
roles, pairs, all at once and processes that recover, and starts again what died by a signal. Every other end of a process
before the run's own is a failure. After each run: the audit balances, every batch is trained, the weights of each version have the
hash of a run that nobody disturbed, and every trajectory that an actor was told is safe is in the log. A kill counts when the
process died of it. The controls: a hub that acknowledges before it commits is found out.
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

STEPS = 10
ROLES = ["actor", "scorer", "curriculum", "learner"]
ACTORS = 2
POINTS = ["log.before_write", "log.after_write", "log.after_acked", "lease.sent", "ack.sent", "batch.sent",
          "trajectory.sent", "weights.swapped", "score.sent", "batch.trained", "weights.published", "batch.answered",
          "checkpoint.before_rename", "checkpoint.after_rename"]
OVERRIDES = ["stages=[rl]", "eval.enabled=false", "rl.staleness_max=0", "pools.actors.workers=%d" % ACTORS,
             "rl.steps=%d" % STEPS, "rl.prompts_per_step=2", "rl.group_size=2", "rl.checkpoint_steps=2",
             "rl.keep_checkpoints=2", "rl.actor.slots=8", "rl.sampling.max_completion_tokens=12",
             "rl.optimizer.warmup_steps=0", "rl.optimizer.learning_rate=1e-4", "rl.objective.entropy_coef=0.01",
             "rl.objective.kl_limit=0"]
RUN_LIMIT_S = 300


class Failure(Exception):
    pass


class Process:
    """One worker: started, killed, started again, until it ends by itself."""

    def __init__(self, rig, role, index):
        self.rig, self.role, self.index = rig, role, index
        self.child, self.done, self.kills, self.deaths = None, False, 0, 0

    def start(self):
        command = [self.rig.hone, self.role, "--run", self.rig.run]
        if self.role in ("actor", "scorer"):
            command += ["--index", str(self.index)]
        log = open(os.path.join(self.rig.run, "logs", "%s-%d.log" % (self.role, self.index)), "ab")
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                      env=self.rig.environment)
        log.close()

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def kill(self):
        """True: it was alive and has died of this signal."""
        if not self.alive():
            return False
        self.child.send_signal(signal.SIGKILL)
        return self.child.wait() == -signal.SIGKILL

    def tend(self):
        """Starts it again after a death by SIGKILL."""
        if self.done or self.alive():
            return
        code = self.child.returncode
        if code == 0:
            self.done = True
        elif code == -signal.SIGKILL:
            self.deaths += 1
            self.start()
        else:
            raise Failure("%s %d ended with %d; see its log" % (self.role, self.index, code))


class Rig:
    def __init__(self, arguments, scratch):
        self.hone = os.path.abspath(arguments.hone)
        self.repository, self.build = arguments.repository, arguments.build
        self.scratch, self.random = scratch, random.Random(arguments.seed)
        self.environment = dict(os.environ)
        self.kills = {kind: 0 for kind in ROLES + ["pair", "all", "recovery"]}
        self.recovery = {role: [] for role in ROLES}
        self.run, self.processes, self.runs = None, [], 0
        self.witnessed = set()

    def call(self, *command):
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if result.returncode != 0:
            raise Failure("%s: %s" % (" ".join(command), result.stderr[-2000:]))
        return result.stdout

    def facts(self, run, *more):
        return self.call(os.path.join(self.build, "tests/e2e/log_facts"), os.path.join(run, "rl/log"), *more)

    def prepare(self):
        """The run that nobody disturbs; its recipe and identity serve all others."""
        recipe = small_recipe(self.call, self.hone, self.repository, self.scratch)
        self.reference = os.path.join(self.scratch, "reference")
        self.call(self.hone, "run", recipe, "output_dir=" + self.reference, *OVERRIDES)
        self.expected = self.facts(self.reference)
        hashes = {line.split()[3] for line in self.expected.splitlines()}
        if len(hashes) != STEPS:
            raise Failure("the weights do not change from batch to batch:\n" + self.expected)

    def begin(self):
        self.runs += 1
        self.run = os.path.join(self.scratch, "run%d" % self.runs)
        for folder in ("logs", "metrics", "rl", "sock"):
            os.makedirs(os.path.join(self.run, folder), mode=0o700)
        for name in ("recipe.yaml", "run.json"):
            shutil.copy(os.path.join(self.reference, name), self.run)
        self.journal = os.path.join(self.run, "journal")
        self.environment = dict(os.environ, HONE_JOURNAL=self.journal)
        self.deadline = time.monotonic() + RUN_LIMIT_S

    def start(self):
        self.processes = [Process(self, "curriculum", 0), Process(self, "learner", 0), Process(self, "scorer", 0)]
        self.processes += [Process(self, "actor", i) for i in range(ACTORS)]
        for process in self.processes:
            process.start()

    def finished(self):
        return all(p.done for p in self.processes if p.role in ("curriculum", "learner"))

    def tend(self):
        for process in self.processes:
            process.tend()
        if time.monotonic() > self.deadline:
            raise Failure("run %d does not end within %d s" % (self.runs, RUN_LIMIT_S))

    def end(self):
        for process in self.processes:
            if process.alive():
                process.child.send_signal(signal.SIGKILL)
                process.child.wait()

    def trained(self):
        try:
            with open(os.path.join(self.run, "metrics/rl.jsonl"), "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0

    def check(self):
        self.call(self.hone, "audit", self.run)
        facts = self.facts(self.run)
        if facts != self.expected:
            raise Failure("run %d trained something else:\n%s\ninstead of\n%s" % (self.runs, facts, self.expected))
        acked = self.facts(self.run, "--acked", self.journal)
        shutil.rmtree(self.run)
        return acked.strip()

    # ---- kills ----

    def any_of(self, role):
        return self.random.choice([p for p in self.processes if p.role == role])

    def strike(self, kind):
        """Kills; True when every victim has died of it."""
        if kind == "pair":
            return all([self.any_of(role).kill() for role in self.random.sample(ROLES, 2)])
        if kind == "all":
            return all([process.kill() for process in self.processes])
        if kind == "recovery":
            process = self.any_of(self.random.choice(ROLES))
            if not process.kill():
                return False
            process.tend()
            time.sleep(self.random.uniform(0.0, 0.3))
            return process.kill()
        return self.any_of(kind).kill()

    def wait(self, until, limit_s):
        end = time.monotonic() + limit_s
        while not self.finished() and time.monotonic() < end and not until():
            self.tend()
            time.sleep(0.005)

    def disturb(self, targets):
        """One run, killed as often as it lasts."""
        self.begin()
        self.start()
        while not self.finished():
            wanted = [kind for kind, target in targets.items() if self.kills[kind] < target]
            self.wait(lambda: False, self.random.uniform(0.05, 0.5))
            if self.finished() or not wanted:
                self.wait(lambda: False, 1.0)
                continue
            kind = max(wanted, key=lambda k: (targets[k] - self.kills[k], self.random.random()))
            before, struck = self.trained(), time.monotonic()
            self.kills[kind] += self.strike(kind)
            if self.random.random() < 0.6:
                self.wait(lambda: self.trained() > before, 60.0)
                if kind in self.recovery and self.trained() > before:
                    self.recovery[kind].append(time.monotonic() - struck)
        self.end()
        return self.check()

    def crash_points(self):
        """One run in which every named point kills once."""
        self.begin()
        witness = os.path.join(self.run, "witness")
        os.mkdir(witness)
        points = ["%s:%d" % (point, self.random.randint(1, 4)) for point in POINTS]
        self.environment.update(HONE_CRASH_AT=",".join(points), HONE_CRASH_WITNESS=witness)
        self.start()
        while not self.finished():
            self.tend()
            time.sleep(0.01)
        self.end()
        died = set(os.listdir(witness))
        deaths = sum(process.deaths for process in self.processes)
        if deaths != len(died):
            raise Failure("%d processes died at %d points" % (deaths, len(died)))
        self.witnessed |= died
        return self.check()

    def control(self):
        """A hub that acknowledges before it commits, and dies in between: the check must notice. The actors die with it;
        else they are asked for the same samples again, and what was lost is there after all."""
        for attempt in range(5):
            self.begin()
            witness = os.path.join(self.run, "witness")
            os.mkdir(witness)
            self.environment.update(HONE_BREAK="ack.after_commit", HONE_CRASH_WITNESS=witness,
                                    HONE_CRASH_AT="ack.before_commit:%d" % (3 + attempt))
            self.start()
            hub, actors = self.processes[0], [p for p in self.processes if p.role == "actor"]
            while not self.finished():
                if not hub.alive() and hub.deaths == 0 and not hub.done:
                    for actor in actors:
                        actor.kill()
                self.tend()
                time.sleep(0.002)
            self.end()
            try:
                self.check()
            except Failure as failure:
                if "acknowledged and is lost" in str(failure):
                    return
                raise
        raise Failure("control: acknowledgements before the commit were not noticed")


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def report(rig):
    for kind, count in rig.kills.items():
        line = "%-10s %3d kills" % (kind, count)
        if rig.recovery.get(kind):
            line += ", next batch trained after %.2f s (median), %.2f s (p95)" % (
                percentile(rig.recovery[kind], 0.5), percentile(rig.recovery[kind], 0.95))
        print(line)
    print("%d runs, %d named points" % (rig.runs, len(rig.witnessed)))


def main():
    parser = argparse.ArgumentParser()
    for name in ("hone", "repository", "build"):
        parser.add_argument(name)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    base = os.environ.get("TMPDIR") or ("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    scratch = tempfile.mkdtemp(prefix="hone-kills.", dir=base)
    rig = Rig(arguments, scratch)
    targets = {role: arguments.kills for role in ROLES}
    targets.update(pair=arguments.kills // 2, all=arguments.kills // 4, recovery=arguments.kills // 2)
    try:
        rig.prepare()
        while any(rig.kills[kind] < target for kind, target in targets.items()):
            facts = rig.disturb(targets)
            print("run %d: %s" % (rig.runs, facts), flush=True)
        for _ in range(max(2, arguments.kills // 20)):
            print("points: %s" % rig.crash_points(), flush=True)
        if rig.witnessed != set(POINTS):
            raise Failure("never passed: %s" % ", ".join(sorted(set(POINTS) - rig.witnessed)))
        rig.control()
        print("control: acknowledgements before the commit are noticed")
        report(rig)
    except Failure as failure:
        print("FAILED (seed %d): %s" % (arguments.seed, failure), file=sys.stderr)
        for process in rig.processes:
            path = os.path.join(rig.run, "logs", "%s-%d.log" % (process.role, process.index))
            if os.path.exists(path):
                print("---- %s" % path, file=sys.stderr)
                with open(path, errors="replace") as file:
                    sys.stderr.write("".join(file.readlines()[-15:]))
        return 1
    finally:
        rig.end()
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
