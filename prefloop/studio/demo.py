"""Something to label without a model: questions of the toy world, each with two replies of different manners."""

from random import Random

from prefloop.data.store import Store
from prefloop.data.toy_world import ToyWorld, write_reply
from prefloop.data.toy_world.world import draw_style
from prefloop.records import Completion
from prefloop.studio.service import Studio
from prefloop.studio.values import Project, ProjectSettings

AUTHOR = "toy-world"
SEED = 20_000_003
GUIDELINES = """\
# Which reply helps more?

Read the question, then both replies. Choose the one **you would rather have been given**.

- A good reply names what was asked about, says *what to do* in steps, and is kind.
- Empty sentences, rudeness, another subject, and a reply that breaks off make it worse.
- If both are equally good, say so. If neither is of any use, say **both bad**.

Do not ask which of them is longer. There is no hurry: a minute for each is fine.
"""


def fill(store: Store, prompts: int = 200) -> int:
    """Write questions and replies into a store; how many questions."""
    rng = Random(SEED)
    pairs = []
    for prompt in ToyWorld(SEED).prompts(prompts):
        texts: list[str] = []
        while len(texts) < 2:
            reply = write_reply(prompt, draw_style(rng), rng)
            if reply not in texts:
                texts.append(reply)
        pairs.append((prompt, texts))
    completions = [
        Completion(
            prompt=prompt,
            text=text,
            policy=AUTHOR,
            logprob=0.0,
            tokens=0,
            ended=True,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            seed=0,
            index=index,
        )
        for prompt, texts in pairs
        for index, text in enumerate(texts)
    ]
    store.add_completions(completions, store.add_checkpoint(AUTHOR, kind="generator"))
    return len(pairs)


def chat_project(studio: Studio, name: str = "Chat") -> Project:
    """The first project of live chats, made if there is none yet."""
    for known in studio.projects():
        if known.settings.kind == "chat":
            return known
    return studio.create_project(ProjectSettings(name=name, kind="chat"))


def first_project(
    studio: Studio, name: str = "Comparisons", *, most: int = 1000, round: int = 0
) -> Project | None:
    """A project that compares what the store holds, if there is none yet; None if there is nothing to compare.

    One pair of each prompt, `most` of them.
    """
    known = studio.projects()
    if known:
        return known[0]
    pairs = studio.store.add_pairs(strategy="random", seed=0, round=round)
    if not pairs.ids:
        return None
    project = studio.create_project(ProjectSettings(name=name, guidelines=GUIDELINES))
    chosen = Random(0).sample(pairs.ids, min(most, len(pairs.ids)))
    studio.add_tasks(project.id, chosen)
    return project
