"""How much of prefloop one must read to understand an algorithm, and how often settings decide: `python -m tests.measure_house [CHECKOUT]`.

Another checkout (`git worktree add`) gives the numbers of another commit. docs/architecture.md has them side by side.
"""

import ast
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

STORIES = {
    "PPO": "ppo",
    "GRPO": "critic_free",
    "DPO": "prefer",
    "reward": "reward",
    "SFT": "sft",
    "online DPO": "online_dpo",
}
"""Algorithm -> the file that tells it."""
LOOP = ("algorithms", "loop")
"""Packages that a story is told in; what is below them are parts with names of their own."""
SETTINGS = ("config", "settings")
"""What settings are called."""


def main(checkout: Path) -> None:
    """Print all measures."""
    package = checkout / "prefloop"
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sorted(package.rglob("*.py"))}
    reads = {
        name: reach(package / "algorithms" / f"{story}.py", trees, package) for name, story in STORIES.items()
    }
    readers = Counter(file for read in reads.values() for file in read)
    print("| algorithm | its file, lines | files only it reads, lines | all files of the loop, lines |")
    print("| --- | --- | --- | --- |")
    for name, read in reads.items():
        file = package / "algorithms" / f"{STORIES[name]}.py"
        own = [file for file in read if readers[file] == 1]
        print(f"| {name} | {lines(file)} | {size(own)} | {size(read)} |")
    of_algorithms = {file: tree for file, tree in trees.items() if file.parent.name in LOOP}
    found = [function for tree in of_algorithms.values() for function in functions(tree)]
    taking = sum(any(name in SETTINGS for name in parameters(function)) for function in found)
    everywhere = [(file, function) for file, tree in trees.items() for function in functions(tree)]
    longest_file, longest = max(everywhere, key=lambda pair: length(pair[1]))
    widest_file, widest = max(everywhere, key=lambda pair: len(parameters(pair[1])))
    widest_here = max(found, key=lambda function: len(parameters(function)))
    here = sum(branches(tree) for tree in of_algorithms.values())
    classes = Counter(
        node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)
    )
    print(f"\nfunctions in algorithms/ and loop/ that take settings: {taking} of {len(found)}")
    print(
        f"branches on settings in the package: {sum(branches(tree) for tree in trees.values())}, {here} of them in algorithms/ and loop/"
    )
    print(f"class names in two or more files: {sum(count > 1 for count in classes.values())}")
    print(f"longest function: {longest.name}, {length(longest)} lines ({longest_file.relative_to(checkout)})")
    print(
        f"longest parameter list: {widest.name}, {len(parameters(widest))} ({widest_file.relative_to(checkout)})"
    )
    print(f"longest in algorithms/ and loop/: {widest_here.name}, {len(parameters(widest_here))}")


def reach(start: Path, trees: dict[Path, ast.Module], package: Path) -> set[Path]:
    """The files of the loop that a story's file imports, directly or through others of them."""
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += [
                file for file in imported(trees[file], package) if file in trees and file.parent.name in LOOP
            ]
    return seen


def imported(tree: ast.Module, package: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("prefloop."):
            module = package.joinpath(*node.module.split(".")[1:])
            yield module.with_suffix(".py")
            yield from (module / f"{alias.name}.py" for alias in node.names)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of what is passed, without self."""
    given = function.args
    return [
        each.arg
        for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)
        if each.arg not in ("self", "cls")
    ]


def branches(tree: ast.Module) -> int:
    """Conditions that read a setting."""
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp | ast.While)]
    return sum(
        any(isinstance(part, ast.Name) and part.id in SETTINGS for part in ast.walk(test)) for test in tests
    )


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def size(files: Collection[Path]) -> str:
    """How many, and their lines."""
    return f"{len(files)}, {sum(map(lines, files))}"


def lines(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
