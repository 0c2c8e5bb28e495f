"""Two machines on one: network namespaces with a cable between them, a torchrun agent in each, and the run's folder on one only.

    python -m tests.end_to_end.machines FOLDER [sft grpo settings cable]

`home` has the folder, `guest` sees an empty one in its place. torchrun numbers machines by name, so its process 0 is on guest. SFT and sharded GRPO go
the way of one process. Then the cable is pulled in the middle of a step: both processes end in time and say who is missing, home's leaves a checkpoint,
the torchrun of guest, which lost the store that both meet in, is ended, and what is said to type goes on. Prints a line for each, with the seconds from the
cable's pull to the end of each process; ends with an error if one is not so. Needs root, `ip` and `unshare`; says what is missing.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from prefloop.cli.last_word import STUCK
from tests.algorithms.sharded import differences
from tests.algorithms.small import make_project, metrics_of, settings, train
from tests.runtime.namespaces import why_not
from tests.runtime.processes import ROOT

NETWORK = "10.77.41"
PORT = 29511
"""Not torchrun's own: what is printed must name the one that was used."""
MINUTES = 0.3
"""That processes wait for each other where one is lost."""
GRACE = 60.0
"""Seconds on top, in which a process finds out who is missing and ends, on a busy machine."""
MOST = 1e-5
STEPS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A namespace with an address, a name of its own, and the run's folder or an empty one."""

    host: str
    address: str
    blind: Path | None
    """The folder that it does not see."""
    hosts: Path
    """Names and addresses of both, as /etc/hosts."""

    @property
    def space(self) -> str:
        """Its network namespace."""
        return f"prefloop-{os.getpid()}-{self.host}"

    @property
    def cable(self) -> str:
        """Its end of the cable."""
        return f"pf{os.getpid()}{self.host[0]}"

    def start(self, command: str, output: Path) -> "subprocess.Popen[bytes]":
        """Run a command line on it, from a folder of its own; what it says goes to a file."""
        hidden = [f"mount -t tmpfs none {shlex.quote(str(self.blind))}"] if self.blind else []
        script = [
            f"echo {self.host} > /proc/sys/kernel/hostname",
            f"mount --bind {shlex.quote(str(self.hosts))} /etc/hosts",
            *hidden,
            f"cd {shlex.quote(tempfile.gettempdir())}",
            f"exec {command}",
        ]
        with output.open("wb") as stream:
            return subprocess.Popen(
                [*("ip", "netns", "exec", self.space), "unshare", "--uts", "sh", "-ec", "\n".join(script)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )

    def plug(self, state: str) -> None:
        """Put the cable in (`up`) or pull it (`down`), which the other end only sees as silence."""
        run("ip", "-n", self.space, "link", "set", self.cable, state)


def workers(agent: int) -> list[int]:
    """The processes that a torchrun has started."""
    return [int(word) for word in Path(f"/proc/{agent}/task/{agent}/children").read_text().split()]


def has_ended(process: int) -> bool:
    """Whether it is gone, or waits for its parent to take notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def ends(processes: Mapping[str, int], *, most: float) -> dict[str, float]:
    """The seconds from now to the end of each process."""
    began, seconds = time.monotonic(), dict[str, float]()
    while len(seconds) < len(processes):
        for name, process in processes.items():
            if name not in seconds and has_ended(process):
                seconds[name] = time.monotonic() - began
        assert time.monotonic() < began + most, f"after {most:.0f} s only these have ended: {seconds}"
        time.sleep(0.05)
    return seconds


def run(*words: str) -> None:
    """A command of the system that must work."""
    subprocess.run(words, check=True, capture_output=True)


def missing(folder: Path) -> str:
    """What this needs and does not find; empty where it has all."""
    tools = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if tools:
        return f"no {' and no '.join(tools)} here (iproute2 and util-linux have them)"
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    name = f"prefloop-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"ip netns add: {tried.stderr.strip()}"
    run("ip", "netns", "del", name)
    return why_not(folder)


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """home and guest, with a cable between them; all that runs on them is ended afterwards."""
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{NETWORK}.1 home\n{NETWORK}.2 guest\n")
    home = Machine(host="home", address=f"{NETWORK}.1", blind=None, hosts=hosts)
    guest = Machine(host="guest", address=f"{NETWORK}.2", blind=folder, hosts=hosts)
    both = home, guest
    try:
        for machine in both:
            run("ip", "netns", "add", machine.space)
        run(
            *("ip", "-n", home.space, "link", "add", home.cable, "type", "veth"),
            *("peer", "name", guest.cable),
        )
        run("ip", "-n", home.space, "link", "set", guest.cable, "netns", guest.space)
        for machine in both:
            run("ip", "-n", machine.space, "addr", "add", f"{machine.address}/24", "dev", machine.cable)
            run("ip", "-n", machine.space, "link", "set", "lo", "up")
            machine.plug("up")
        yield both
    finally:
        for machine in both:
            found = subprocess.run(["ip", "netns", "pids", machine.space], capture_output=True, text=True)
            for process in found.stdout.split():
                subprocess.run(["kill", "-9", process], capture_output=True)
            subprocess.run(["ip", "netns", "del", machine.space], capture_output=True)


def torchrun(name: str, *, hosts_store: bool) -> str:
    """The command line of an agent. Only one may keep the store in which they meet."""
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", f"{NETWORK}.1:{PORT}", "--rdzv-id", name]
    words += ["--rdzv-conf", f"is_host={str(hosts_store).lower()}"]
    return shlex.join([sys.executable, "-m", "torch.distributed.run", *words])


def on_both(
    machines: Sequence[Machine], commands: Sequence[str], folder: Path, name: str
) -> list["subprocess.Popen[bytes]"]:
    """Start a command on each."""
    return [
        machine.start(command, folder / f"{name}.{machine.host}.out")
        for machine, command in zip(machines, commands, strict=True)
    ]


def said(folder: Path, name: str, host: str) -> str:
    return (folder / f"{name}.{host}.out").read_text(errors="replace")


def trained(machines: Sequence[Machine], commands: Sequence[str], folder: Path, name: str) -> float:
    """Run commands to their end on both; the seconds it took."""
    began = time.monotonic()
    codes = [process.wait(timeout=300) for process in on_both(machines, commands, folder, name)]
    if codes != [0, 0]:
        sys.exit(
            f"{name}: ended with {codes}\n{said(folder, name, 'home')}\n--- guest\n{said(folder, name, 'guest')}"
        )
    return time.monotonic() - began


def close(folder: Path, ours: str, theirs: str) -> str:
    """Compares two runs; what to say of them."""
    weights, metrics = differences(folder / ours, folder / theirs)
    if not weights <= MOST:
        sys.exit(f"{ours}: weights differ by {weights:.1e} from those of one process")
    return f"weights within {weights:.0e} of one process, logged numbers within {metrics:.0e}"


def equal(machines: Sequence[Machine], folder: Path, stage: str, *flags: str) -> None:
    """A stage on both machines beside one process. guest knows neither settings, data nor models."""
    train(settings(stage, folder, out=f"one-{stage}"))
    words = [stage, "--config", f"{folder}/one-{stage}/config.yaml", "--out", f"{folder}/two-{stage}", *flags]
    commands = [
        f"{torchrun(stage, hosts_store=machine.host == 'home')} -m prefloop {shlex.join(words)}"
        for machine in machines
    ]
    seconds = trained(machines, commands, folder, f"two-{stage}")
    log = (folder / f"two-{stage}" / "log.txt").read_text()
    assert "the run's folder is not seen on guest: process 0 on home reads and writes for all" in log, log
    assert "process 0 sent it" in log, log
    print(
        f"{' '.join((stage, *flags))}: {close(folder, f'two-{stage}', f'one-{stage}')}; {seconds:.0f} s",
        flush=True,
    )


def other_settings(machines: Sequence[Machine], folder: Path) -> None:
    """guest is given another learning rate."""
    words = ["sft", "--config", f"{folder}/stopping/config.yaml", "--out", f"{folder}/refused"]
    commands = [
        f"{torchrun('refused', hosts_store=machine.host == 'home')} -m prefloop {shlex.join([*words, *more])}"
        for machine, more in zip(machines, ([], ["--optim.lr", "0.5"]), strict=True)
    ]
    processes = on_both(machines, commands, folder, "refused")
    codes = [process.wait(timeout=120) for process in processes]
    line = said(folder, "refused", "home").strip().splitlines()[-1]
    assert 0 not in codes, codes
    assert "process 1 on guest was given other settings than process 0 on home: optim.lr is 0.5" in line, line
    assert not (folder / "refused").exists()
    print(f"other settings: {line}", flush=True)


def cable(machines: Sequence[Machine], folder: Path) -> None:
    """The cable is pulled in the middle of a step, and what is then printed goes on."""
    guest = machines[1]
    ready = settings("sft", folder, out="one-long")
    train(replace(ready, epochs=float(STEPS), max_steps=STEPS, eval_every=0))
    words = ["sft", "--config", f"{folder}/one-long/config.yaml", "--out", f"{folder}/long"]
    words += ["--compute.wait_minutes", str(MINUTES)]
    commands = [
        f"{torchrun('long', hosts_store=machine.host == 'home')} -m prefloop {shlex.join(words)}"
        for machine in machines
    ]
    processes = on_both(machines, commands, folder, "long")
    log = folder / "long" / "metrics.jsonl"
    end = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert time.monotonic() < end, said(folder, "long", "home") + said(folder, "long", "guest")
        time.sleep(0.005)
    watched = {"home's torchrun": processes[0].pid, "guest's torchrun": processes[1].pid}
    for host, process in zip(("home", "guest"), processes, strict=True):
        (watched[f"{host}'s process"],) = workers(process.pid)
    guest.plug("down")
    seconds = ends(watched, most=MINUTES * 60 + GRACE + STUCK)
    home_code, guest_code = (process.wait() for process in processes)
    assert guest_code == -signal.SIGKILL, guest_code
    time.sleep(1)  # what ended it says so afterwards
    for told in ("process 0 on home of 2 did not come", "torchrun on guest still waited for the machine"):
        assert told in said(folder, "long", "guest"), said(folder, "long", "guest")
    (line,) = set(re.findall(r"^prefloop: error: .*$", said(folder, "long", "home"), re.MULTILINE))
    assert home_code != 0
    assert "process 1 on guest of 2 did not come within 0.3 minutes (compute.wait_minutes)" in line, line
    step = re.search(r"the checkpoint of step (\d+) is in", line)
    assert step, line
    assert (folder / "long/checkpoints" / f"step-{step[1]}").is_dir()
    text = line.partition("resume with: ")[2]
    found = dict(re.findall(r"on (\w+): (.*?)(?:; |$)", text))
    assert found.keys() == {"home", "guest"}, text
    assert all(f"{NETWORK}.1:{PORT}" in command for command in found.values()), found
    shown = ", ".join(f"{name} {passed:.0f} s" for name, passed in sorted(seconds.items(), key=itemgetter(1)))
    print(f"cable pulled, compute.wait_minutes {MINUTES}: ended after it {shown}", flush=True)
    print(f"home said: {line.removeprefix('prefloop: error: ')}", flush=True)
    guest.plug("up")
    trained(machines, [found["home"], found["guest"]], folder, "long-resumed")
    steps = [row["step"] for row in metrics_of(folder / "long")]
    assert steps == list(range(1, STEPS + 1)), steps
    print(
        f"resumed as printed from step {step[1]}: {close(folder, 'long', 'one-long')} after {STEPS} steps",
        flush=True,
    )


def main() -> None:
    folder = Path(sys.argv[1]).resolve() / "project"
    made = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    fault = missing(folder)
    if fault:
        print(f"two machines in network namespaces: not tried, {fault}")
        return
    if not made:  # that of parts that were tried before serves as well
        make_project(folder)
    with two_machines(folder) as machines:
        parts = {
            "sft": lambda: equal(machines, folder, "sft"),
            "grpo": lambda: equal(machines, folder, "grpo", "--compute.shard", "full"),
            "settings": lambda: other_settings(machines, folder),
            "cable": lambda: cable(machines, folder),
        }
        for name in sys.argv[2:] or parts:
            parts[name]()


if __name__ == "__main__":
    main()
