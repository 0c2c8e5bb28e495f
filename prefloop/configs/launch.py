"""Settings of `prefloop launch`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require, require_effect
from prefloop.configs.estimate import require_engine_gpus

MEETING_PORT = 29400
"""At which torchrun's processes on several nodes meet, unless told otherwise."""
Scheduler = Literal["slurm", "skypilot", "k8s"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchConfig:
    """Write the script with which Slurm, SkyPilot or Kubernetes starts a training on several machines. Nothing is submitted."""

    slurm: bool = False
    """Write a batch script for `sbatch`."""
    skypilot: bool = False
    """Write a task for `sky launch`."""
    k8s: bool = False
    """Write manifests for `kubectl apply`: an indexed Job, and the engine beside it."""
    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs of each machine."""
    engine_gpus: int = 0
    """GPUs for an inference engine that draws the completions; 0 for none. With several nodes the first serves and the others train."""
    hours: float = 24.0
    """Time limit of a Slurm job."""
    restarts: int = 3
    """How often torchrun starts the processes again from the last checkpoint after one has died."""
    name: str = ""
    """Name of the job; empty is prefloop and the command's name."""
    setup: str = ""
    """A line of shell that each node runs first, such as `source /shared/venv/bin/activate`."""
    accelerator: str = "H100"
    """SkyPilot's name for the GPU."""
    image: str = ""
    """Container image that has prefloop; Kubernetes needs one."""
    volume: str = ""
    """Kubernetes: the ReadWriteMany volume claim for runs and data. SkyPilot: the bucket, such as s3://my-runs; without one the run's folder is on one node's disk. It is /prefloop on every node."""
    port: int = MEETING_PORT
    """Port on the first training node at which torchrun's processes meet."""
    out: str = ""
    """File to write; empty prints it."""
    command: tuple[str, ...] = ()
    """After `--`: a training command with its settings, as for one machine."""

    def __post_init__(self) -> None:
        named = [name for name in ("slurm", "skypilot", "k8s") if getattr(self, name)]
        require(
            len(named) == 1,
            f"{' and '.join(f'--{name}' for name in named) + ' are' if named else 'no scheduler is'} given; give one of --slurm, --skypilot and --k8s",
        )
        require(
            bool(self.command),
            "command is empty; end the line with -- and a training command, such as -- dpo",
        )
        for name in ("nodes", "gpus"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(self.restarts >= 0, f"restarts is {self.restarts}; it must be 0 or more")
        require(self.hours > 0, f"hours is {self.hours}; it must be above 0")
        require(0 < self.port < 65536, f"port is {self.port}; it must be between 1 and 65535")
        require_engine_gpus(self.engine_gpus, nodes=self.nodes, gpus=self.gpus)
        require_effect(
            self,
            (not self.slurm, ("hours",), "but only Slurm has a time limit here"),
            (not self.skypilot, ("accelerator",), "but only SkyPilot asks for a GPU by name"),
            (
                self.slurm,
                ("image", "volume"),
                "but a Slurm job runs in the nodes' own environment and folders",
            ),
        )
        require(not self.k8s or bool(self.image), "image is empty; name a container image that has prefloop")
        require(
            not self.k8s or bool(self.volume),
            "volume is empty; name the ReadWriteMany volume claim that all pods write the run to",
        )

    @property
    def scheduler(self) -> Scheduler:
        """Which one the script is for."""
        return "slurm" if self.slurm else "skypilot" if self.skypilot else "k8s"
