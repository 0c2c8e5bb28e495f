"""`prefloop engine`."""

from pathlib import Path

from prefloop.configs.engine import EngineInstallConfig, EngineServeConfig
from prefloop.errors import InputError
from prefloop.rollout.engine.environment import find_environment, install
from prefloop.rollout.engine.server import last_words, serving


def serve(config: EngineServeConfig) -> None:
    """Start the server, print its address, and wait for it to end."""
    environment = find_environment(config.environment)
    print(
        f"{environment.describe} from {environment.python}; it says how it starts in {config.log}", flush=True
    )
    with serving(config, environment) as server:
        print(f"{config.model} is served at {server.url} after {server.seconds:.0f} s", flush=True)
        print(
            f"train with it: prefloop grpo --model {config.model} --sampling.engine {server.url} ...",
            flush=True,
        )
        code = server.process.wait()
    raise InputError(f"the engine has ended with exit code {code}: {last_words(Path(config.log))}")


def install_environment(config: EngineInstallConfig) -> None:
    """Make the environment."""
    environment = install(Path(config.folder), config.kind)
    print(f"{config.folder} has {environment.describe}; start it with: prefloop engine serve --model MODEL")
