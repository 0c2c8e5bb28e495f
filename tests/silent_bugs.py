"""Which tests catch which of the field's silent bugs. `python -m tests.silent_bugs` writes the page docs/silent_bugs.md.

A test says what it catches in a comment at the end of its `def`: the names of rows below.
"""

import re
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "silent_bugs.md"

ROWS = {
    "Masks, end tokens, padding": {
        "M1": "The end token is masked where padding is the same token, so the model never stops",
        "M2": "The token that ends a turn is assigned to the next role and never trained",
        "M3": "The first completion token is dropped by a mask shifted the wrong way",
        "M4": "DPO masks the prompt of one side only",
        "M5": "Labels are shifted twice",
        "M6": "An all-zero mask trains on nothing and looks healthy",
        "M7": "A fully masked row gives NaN, or is counted in the denominator",
        "M8": "0 times NaN leaks through the mask",
        "M9": "Padding leaks into advantages or returns",
        "M10": "Whitening over padding, or within one process only",
        "M11": "Values reordered by batching, their mask not",
        "M12": "A mask made from the wrong tensor",
        "M13": "Attention sees tokens after the end token",
        "M14": "The score is read at the wrong token",
        "M15": "The reward of an empty or full-length completion is put in the wrong place",
        "M16": "Statistics average over padding",
        "M17": "Only one of several stop tokens ends a completion, or saved files name a different one than was trained",
        "M18": "A reward adapter on its base is read at a different token than it was trained at",
    },
    "Normalisation of losses": {
        "N1": "Accumulated micro-batches give another loss than the whole batch",
        "N2": "A sharding backend keeps the last micro-batch's gradient only",
        "N3": "The loss depends on the number of processes",
        "N4": "The denominator counts tokens that the numerator leaves out",
        "N5": "The reduction is set but never used, or wrong",
        "N6": "The value loss without its half, or normalised differently from the policy's",
        "N7": "A term is normalised twice",
        "N8": "The order of integer divisions loses steps",
        "N9": "The logged number is not the one optimised",
    },
    "Log-probabilities and KL": {
        "K1": "The sampling temperature is missing when log-probabilities are computed again",
        "K2": "The temperature is applied to values",
        "K3": "Top-p or top-k in the sampler and not in the trainer",
        "K4": "A KL in the loss without gradient, or with the wrong one",
        "K5": "The sign of the KL is wrong",
        "K6": "The KL is counted in the reward and in the loss",
        "K7": "A setting is ignored",
        "K8": "Dropout is on while old or reference log-probabilities are computed",
        "K9": "A wrong or unused reference",
        "K10": "Too little precision in log-softmax or KL, overflow, underflow",
        "K11": "The on-policy ratio is not 1",
        "K12": "The KL reported, or fed to the controller, is not the one used",
        "K13": "The KL is not masked, or per token where it should be per sequence",
        "K14": "KTO's reference point is wrong",
        "K15": "Length or beta is in the wrong place",
    },
    "Critic, advantages, reward model": {
        "C1": "Values shifted by one",
        "C2": "Bootstrapping past the end",
        "C3": "A head that is not saved, drawn again, or silently not loaded",
        "C4": "A head initialised before the seed is set",
        "C5": "The head's optimiser ignores the schedule",
        "C6": "Groups of one train nothing",
        "C7": "A reward of 0.0 is treated as missing",
        "C8": "Groups mixed across prompts or processes",
        "C9": "Rollouts are greedy",
        "C10": "A user's loss or reward function gives the wrong shape, and it is broadcast, flattened or converted",
    },
    "Data, tokens, sampling": {
        "D1": "Tokens of the parts are not the tokens of the whole",
        "D2": "Re-encoded text drifts from the sampled tokens",
        "D3": "Two start or end tokens",
        "D4": "Truncation removes the end token, the answer, or the wrong side",
        "D5": "Records dropped silently",
        "D6": "Packed examples see each other, or positions do not restart",
        "D7": "All samples of a prompt are the same, or there are too many",
        "D8": "The last, smaller batch is thrown away",
        "D9": "The prompt leaks into the reward function",
        "D10": "The prompt is there twice",
        "D11": "Votes between models are read as prompts, and the votes are lost",
        "D12": "The trained turn is not what the chat template writes: a tag twice, a thought closed, a line break lost",
        "D13": "The chat template leaves out the system message, the tools or a tool's answer",
        "D14": "Prompts that differ by a word are both trained on and held out",
        "D15": "A ranking's ties are dropped or broken, or the unordered rest of a best of K is read as tied or ordered",
    },
    "Resuming and checkpoints": {
        "R1": "The order of data differs after resuming",
        "R2": "Resuming at the end of an epoch trains nothing",
        "R3": "With loader workers the data starts again",
        "R4": "The flag to resume is never read",
        "R5": "Optimiser or schedule not restored, or twice",
        "R6": "The adaptive KL coefficient or running moments are not saved",
        "R7": "The only good checkpoint is deleted, or is half written",
        "R8": "Exported weights are adapters that were not merged, or nothing",
        "R9": "A model that is an adapter is trained, scored or saved without it, or with it twice",
        "R10": "A run resumes from a checkpoint whose bytes were changed",
        "R11": "Weights that are not finite are published as the finished model",
    },
    "Evaluation": {
        "E1": "A model is measured on what it, or a model behind it, was trained on",
        "E2": "Rows are silently left out of an evaluation, or it reads different texts than training did",
        "E3": "An interval treats completions of one prompt as independent",
        "E4": "A judge is fitted and measured on texts about the same things, so its accuracy is overstated",
    },
    "Verdicts": {
        "V1": "Outcomes that all agree (one vote, all wins, all ties) give an interval of zero width",
        "V2": "Votes that share a prompt or an annotator are counted as independent",
        "V3": "An annotator's reliability is just the prior, or assumes answers that nobody used",
    },
    "Labels": {
        "P1": "A rewrite of one reply is stored as better than another reply, or unchanged text is stored as a rewrite",
        "P2": "Withdrawn judgements are still exported: answers of a deleted project, decisions on items no longer asked",
        "P3": "An answer counts as stored but is not, or another window, an ended session or a lost connection loses it",
        "P4": "Annotators do not see what was written: backslashes, line breaks or the text direction are lost",
    },
}
NOT_BUILT = {
    "N2": "sharded training",
    "R3": "loader workers: data is in memory and a step's examples are a function of its number",
}
"""Rows about what prefloop does not have (yet)."""

MARK = re.compile(r"#((?: [A-Z]\d+)+)\s*$")


def marked() -> dict[str, list[str]]:
    """Row -> `file::test`, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        name = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            begun = re.match(r"\s*def (test_\w+)", line)
            name = begun.group(1) if begun else name
            mark = MARK.search(line)
            if mark and name:
                for row in mark.group(1).split():
                    test = f"{file.relative_to(REPOSITORY)}::{name}"
                    if test not in found[row]:
                        found[row].append(test)
    return dict(found)


def page() -> str:
    """The page, in Markdown."""
    tests = marked()
    lines = [
        "# Silent bugs, and the tests that catch them",
        "",
        "Each row was real in a public library for training on preferences, and raised no error. The tests beside it fail where the bug is planted.",
        "This page is written by `python -m tests.silent_bugs` from comments in the tests.",
    ]
    for title, rows in ROWS.items():
        lines += ["", f"## {title}", "", "| | Bug | Tests |", "|---|---|---|"]
        for row, bug in rows.items():
            cell = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests.get(row, []))
            if row in NOT_BUILT:
                cell += ("<br>" if cell else "") + f"does not apply: {NOT_BUILT[row]}"
            lines.append(f"| {row} | {bug} | {cell or '**no test yet**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
