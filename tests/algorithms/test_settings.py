"""Every setting is read: watched while stages run, and looked for in the source where a stage is not run here."""

import ast
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prefloop
from prefloop.configs.adapters import Adapter
from prefloop.configs.agreement import AgreementConfig
from prefloop.configs.align import AlignConfig, PlanConfig, Preferences
from prefloop.configs.annotate import ScorePairsConfig
from prefloop.configs.arena import ArenaConfig
from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.configs.chat import ChatConfig
from prefloop.configs.common import Compute, Data, LoRA, Optim, Rows, RunSettings, Sampling, Selecting
from prefloop.configs.critic_free import METHODS, CriticFreeConfig
from prefloop.configs.data import (
    CheckConfig,
    DiffConfig,
    ExportConfig,
    ImportConfig,
    SaveConfig,
    VersionsConfig,
)
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.engine import EngineInstallConfig, EngineServeConfig, Importance, OnlineSampling
from prefloop.configs.environments import EnvironmentSettings
from prefloop.configs.estimate import EstimateConfig
from prefloop.configs.evaluate import EvalConfig
from prefloop.configs.filter import FilterConfig, RejectionConfig
from prefloop.configs.games import GameConfig, NashMDConfig, SPPOConfig
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.judge import (
    AskedModel,
    CallLimits,
    JudgeConfig,
    LabelScoreConfig,
    RequestFields,
    ReviseConfig,
    ScorerConfig,
)
from prefloop.configs.label import (
    BackupConfig,
    ChatAnswers,
    ImageEraseConfig,
    InviteConfig,
    InviteTerms,
    LabelExportConfig,
    LabelImportConfig,
    ProjectDeleteConfig,
    ProjectMembersConfig,
    ProjectStateConfig,
    RecruitConfig,
    RestoreConfig,
    ServeConfig,
    SimulateConfig,
    UserEraseConfig,
    UserResetConfig,
    UserRetainConfig,
)
from prefloop.configs.label_questions import AnswersConfig, QuestionsConfig
from prefloop.configs.launch import LaunchConfig
from prefloop.configs.merge import MergeConfig
from prefloop.configs.model_names import ModelName
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import (
    KL,
    A2CConfig,
    ActorCriticConfig,
    CriticSettings,
    NLPOConfig,
    PPOConfig,
    RewardShaping,
    ScoreShaping,
    TRPOConfig,
)
from prefloop.configs.prefer import FollowPolicy, PreferConfig
from prefloop.configs.pretrain import Architecture, PretrainConfig
from prefloop.configs.project import LineageConfig, ReportConfig
from prefloop.configs.push import PushConfig
from prefloop.configs.recipes import IMDBConfig, RoundsConfig, ToyConfig
from prefloop.configs.remote import (
    Remote,
    RemoteCallConfig,
    RemoteExportConfig,
    RemoteImportConfig,
    RemoteInviteConfig,
    RemoteProjectsConfig,
)
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.scorers import Combining, Named
from prefloop.configs.select import ScoreConfig, SelectConfig
from prefloop.configs.sft import SFTConfig
from prefloop.configs.sign_in import SignIn
from prefloop.configs.study import StudyConfig
from prefloop.configs.verifiers import VerifierConfig
from prefloop.configs.verify import VerifyConfig
from tests.algorithms.prefer_settings import shared_settings
from tests.algorithms.small import settings, train

SHARED = (Optim, LoRA, Sampling, Data, Compute, RunSettings)
OF_STAGES = (
    *(PretrainConfig, Architecture, SFTConfig, RewardConfig, DPOConfig, PreferConfig, PPOConfig),
    *(KL, RewardShaping, CriticSettings),
    *(CriticFreeConfig, ScoreShaping),
)
OTHERS = (
    EnvironmentSettings,
    *(SampleConfig, EvalConfig, ChatConfig, CheckConfig, ImportConfig, ExportConfig),
    *(Selecting, SaveConfig, VersionsConfig, DiffConfig),
    *(SimulateConfig, LineageConfig, ReportConfig, ToyConfig, IMDBConfig),
    *(FollowPolicy, FilterConfig, RejectionConfig, MergeConfig),
    *(ScorePairsConfig, BestOfNConfig, Combining, Named),
    *(ServeConfig, SignIn, ChatAnswers, LabelImportConfig, LabelExportConfig, BackupConfig, RestoreConfig),
    *(AnswersConfig, QuestionsConfig),
    *(InviteTerms, Remote, RemoteProjectsConfig, RemoteImportConfig, RemoteExportConfig),
    *(RemoteInviteConfig, RemoteCallConfig),
    *(AskedModel, ScorerConfig, LabelScoreConfig, ReviseConfig, DistillContextConfig, RoundsConfig),
    *(
        UserResetConfig,
        UserEraseConfig,
        UserRetainConfig,
        UserRetainConfig,
        ImageEraseConfig,
        InviteConfig,
        ProjectMembersConfig,
        ProjectStateConfig,
        ProjectDeleteConfig,
        RecruitConfig,
        VerifyConfig,
        Adapter,
        Rows,
        RequestFields,
    ),
    *(PushConfig, ModelName, VerifierConfig, OnlineSampling, Importance),
    *(EngineServeConfig, EngineInstallConfig, LaunchConfig, EstimateConfig),
    *(AgreementConfig, ArenaConfig, JudgeConfig, CallLimits, ScoreConfig, SelectConfig),
    *(AlignConfig, PlanConfig, Preferences, StudyConfig),
    *(NLPOConfig, GameConfig, NashMDConfig, SPPOConfig, ILQLConfig),
    *(ActorCriticConfig, A2CConfig, TRPOConfig, ExpertConfig, OnlineDPOConfig, *METHODS),
)


def _that_read_everything(project: Path) -> Iterator[Any]:
    """Together these runs have a use for every setting."""
    names = ("pretrain", "sft", "reward", "dpo", "ppo", "ppo_shared", "ppo_policy_critic", "grpo")
    yield from (settings(name, project, out=f"watched-{name}") for name in names)
    yield shared_settings(project, project / "watched-prefer", "kto")
    # Where adapters go is asked for by name.
    adapters = settings("sft_lora", project, out="watched-sft_lora")
    yield replace(adapters, lora=replace(adapters.lora, targets=("q_proj",)))
    plain = settings("reward", project, out="watched-segments")
    yield replace(plain, loss="segments", margin=False, centring=0.0, label_smoothing=0.0, random_share=0.1)
    two = f"{project / 'reward/final'},{project / 'stopping/final'}@{project / 'start'}"
    for name in ("ppo_policy_critic", "grpo"):
        single = settings(name, project, out=f"watched-two-{name}")
        yield replace(single, reward_model=two, reward=replace(single.reward, combine="penalised"))


def test_running_the_stages_reads_every_setting(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K7 R4
    """A read counts if our own code outside the settings' modules does it; copying settings and writing them down does not."""
    read: set[tuple[str, str]] = set()
    for cls in (*SHARED, *OF_STAGES):

        def watch(self: Any, name: str, cls: type = cls) -> Any:
            reader = sys._getframe(1).f_globals.get("__name__", "")
            if reader.startswith("prefloop.") and not reader.startswith("prefloop.configs"):
                read.add((cls.__name__, name))
            return object.__getattribute__(self, name)

        monkeypatch.setattr(cls, "__getattribute__", watch)
    for config in _that_read_everything(project):
        train(config)
    monkeypatch.undo()
    wanted = {
        (cls.__name__, field.name) for cls in (*SHARED, *OF_STAGES) for field in dataclasses.fields(cls)
    }
    assert not sorted(wanted - read), sorted(wanted - read)


def attributes(folder: Path) -> Iterator[str]:
    """Names of all attributes that the package reads, but for the settings' own modules."""
    for file in folder.rglob("*.py"):
        if "configs" not in file.parts:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    yield node.attr


@pytest.fixture(scope="module")
def used() -> set[str]:
    return set(attributes(Path(prefloop.__file__).parent))


@pytest.mark.parametrize("cls", OTHERS)
def test_settings_of_other_commands_are_named_somewhere(cls: Any, used: set[str]) -> None:  # K7 R4
    assert [field.name for field in dataclasses.fields(cls) if field.name not in used] == []


def test_every_class_of_settings_is_looked_at() -> None:  # R4
    """A new one is added above, or this fails."""
    import importlib
    import pkgutil

    import prefloop.configs

    known = {cls.__name__ for cls in (*SHARED, *OF_STAGES, *OTHERS)} | {"LoopSettings"}
    found = set()
    for module in pkgutil.iter_modules(prefloop.configs.__path__, "prefloop.configs."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                dataclasses.is_dataclass(value)
                and isinstance(value, type)
                and value.__module__ == module.name
            ):
                found.add(value.__name__)
    assert {name for name in found if not name.startswith("_")} - known - {"Given"} == set()
