"""The algorithm of one's own that the docs show: it learns, resumes to the bit, and is in the lineage."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.online_kto import OnlineKTOConfig, train
from prefloop.api.results import PolicyRun
from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.engine import OnlineSampling
from prefloop.runtime import Run
from prefloop.runtime.interrupt import Interrupted
from tests.algorithms.small import CPU, assert_same, interrupt, metrics_of, resumed, write
from tests.tiny_project import make_model


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> OnlineKTOConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("own")
    write(folder / "prompts.jsonl", [{"prompt": word} for word in ("a", "sun", "tea", "oak", "ice", "wind")])
    return OnlineKTOConfig(
        run=RunSettings(out=str(folder / "run"), seed=1),
        data=Data(source=str(folder / "prompts.jsonl"), heldout=0.0),
        model=str(make_model(folder / "start", chat=False)),
        reward_model="tests.algorithms.small:short_is_good",
        sampling=OnlineSampling(max_new_tokens=6),
        steps=16,
        batch_prompts=6,
        completions_per_prompt=6,
        beta=0.1,
        optim=Optim(lr=3e-2, schedule="constant"),
        compute=CPU,
    )


def test_it_learns_and_is_in_the_lineage(settings: OnlineKTOConfig) -> None:
    train(settings)
    scores = [row["score"] for row in metrics_of(Path(settings.run.out))]
    assert sum(scores[-3:]) / 3 > scores[0] + 2
    assert "online_kto" in PolicyRun("online_kto", Path(settings.run.out)).lineage().render()


def test_it_resumes_to_the_bit(settings: OnlineKTOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(settings, steps=3)
    whole, broken = (
        replace(short, run=replace(settings.run, out=f"{settings.run.out}-{name}"))
        for name in ("whole", "broken")
    )
    train(whole)
    real = Run.log

    def stop_after_the_first(self: Run, step: int, *rest: object, **more: object) -> None:
        real(self, step, *rest, **more)  # pyright: ignore[reportArgumentType]
        if step == 1:
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stop_after_the_first)
        with pytest.raises(Interrupted):
            train(broken)
    train(resumed(broken))
    assert_same(Path(broken.run.out), Path(whole.run.out))
