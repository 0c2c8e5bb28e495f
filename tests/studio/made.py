"""Stores with something to label."""

from prefloop.data.store import Store
from prefloop.records import Completion, Message, Prompt


def completion(prompt: Prompt, text: str, index: int, policy: str = "secret-policy-7b") -> Completion:
    return Completion(
        prompt=prompt,
        text=text,
        policy=policy,
        logprob=-1.0,
        tokens=3,
        ended=True,
        temperature=0.7,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=index,
    )


def fill(
    store: Store, prompts: int, *, k: int = 2, mark: str = "", policy: str = "secret-policy-7b"
) -> list[int]:
    """Prompts with `k` different completions each; ids of the completions, prompt after prompt."""
    checkpoint = store.add_checkpoint(policy)
    asked = [
        Prompt(content=(Message(role="user", content=f"question {mark}{number}"),))
        for number in range(prompts)
    ]
    return store.add_completions(
        [
            completion(prompt, f"answer {mark}{number} {index}", index, policy)
            for number, prompt in enumerate(asked)
            for index in range(k)
        ],
        checkpoint,
    )
