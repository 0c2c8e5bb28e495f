"""What `align` will do, in one screen."""

from prefloop.configs.common import Optim
from prefloop.recipes.align.cost import millions
from prefloop.recipes.align.decide import Decided, whole
from prefloop.recipes.align.look import rendered, someone, template_line
from prefloop.recipes.align.stages import Stage, batch_for, online

GIB = 1024


def screen(decided: Decided) -> str:
    """Everything that was found and chosen, and what each stage is estimated to take."""
    seen, machine, choice = decided.seen, decided.machine, decided.choice
    shape, lengths, config = seen.shape, seen.lengths, decided.config
    records = sum(len(part) for part in seen.parts.values())
    author = someone([one for part in seen.parts.values() for one in part])
    left_out = ", ".join(f"{count:,} {why}" for why, count in seen.left_out.items())
    lines = [
        ("model", f"{config.model}: {shape.name}, {shape.layers} layers of width {shape.width}, {shape.positions:,} positions"),
        ("template", template_line(seen)),
        ("a row", f"{rendered(seen)}   (⟦trained⟧)"),
        ("data", f"{config.data.source}: {records:,} comparisons{f' by {author}' if author else ''}" + (f"; left out: {left_out}" if left_out else "")),
        ("parts", _parts(decided)),
        ("lengths", f"prompts {lengths.prompt:.0f} tokens on average, at most {lengths.max_prompt}; completions {lengths.completion:.0f}, at most {lengths.max_completion}"),
        ("trained", f"{_trained(decided)}; {decided.why}; micro-batches of {choice.compute.micro_batch_tokens:,} tokens{' with checkpointed activations' if choice.compute.gradient_checkpointing else ''}"),
        ("judge", _judge(decided)),
        ("machine", f"{machine.device}, {machine.threads} thread{'s' if machine.threads > 1 else ''}, {machine.layer / 1e9:.0f} GFLOP/s measured; {decided.free_mib / GIB:.1f} GiB of memory free"),
    ]  # fmt: skip
    width = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)
    return f"{text}\n\n{_table(decided)}{_short_of(decided)}"


def _parts(decided: Decided) -> str:
    sizes, all_of_it = decided.sizes, whole(decided.config, decided.seen)
    parts = [
        f"{getattr(sizes, name):,} of {getattr(all_of_it, name):,} {what}"
        for name, what in (
            (
                "policy",
                "comparisons train the policies"
                + (" and their reward model" if online(decided.config) else ""),
            ),
            ("judge", "the judge"),
            ("measure", "measure it"),
            ("prompts", "held-out prompts are answered"),
        )
        if getattr(all_of_it, name)
    ]
    if sizes.answers > 1:
        parts[-1] += f" {sizes.answers} times each"
    return f"{', '.join(parts)}; split by prompt, so no evaluation data is trained on"


def _trained(decided: Decided) -> str:
    lora, shape = decided.choice.lora, decided.seen.shape
    if not lora.on:
        return f"all {millions(shape.weights)} weights"
    return f"adapters of rank {lora.rank}, {millions(lora.rank * shape.adapter)} weights, on one frozen trunk"


def _judge(decided: Decided) -> str:
    judge = decided.config.judge
    if judge == "reward":
        return "a reward model trained on its own part, which no policy learns from; measured on comparisons that neither has seen"
    return f"{judge}, measured on comparisons that no policy learns from"


def _table(decided: Decided) -> str:
    rows = [("stage", "reads", "lr", "batch", "steps", "time", "memory")]
    by_name = {stage.name: stage for stage in decided.stages}
    for estimate in decided.estimates:
        about = _about(by_name[estimate.stage], decided) if estimate.stage in by_name else _measured(decided)
        rows.append(
            (estimate.stage, *about, duration(estimate.cost.seconds), f"{estimate.cost.mib / GIB:.1f} GiB")
        )
    total = decided.total
    rows.append(("all", "", "", "", "", duration(total.seconds), f"{total.mib / GIB:.1f} GiB at most"))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _about(stage: Stage, decided: Decided) -> tuple[str, str, str, str]:
    settings, sizes = stage.settings, decided.sizes
    optim: Optim = settings.optim
    steps = getattr(settings, "steps", 0)
    if steps:
        batch = settings.batch_prompts  # pyright: ignore[reportAttributeAccessIssue]
        return "prompts", f"{optim.lr:.2g}", str(batch), str(steps)
    count = {"sft": sizes.demonstrations, "judge": sizes.judge}.get(stage.name, sizes.policy)
    what = "demonstrations" if stage.name == "sft" else "comparisons"
    batch = batch_for(count)
    return f"{count:,} {what}", f"{optim.lr:.2g}", str(batch), f"about {-(-count * 9 // (10 * batch))}"


def _measured(decided: Decided) -> tuple[str, str, str, str]:
    return f"{decided.sizes.prompts} prompts, {decided.sizes.measure} comparisons", "", "", ""


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _short_of(decided: Decided) -> str:
    """A line where it will not fit into memory."""
    total, free = decided.total.mib, decided.free_mib
    if total <= free:
        return ""
    return f"\n! It will not fit: {total / GIB:.1f} GiB are estimated and {free / GIB:.1f} are free. Use a smaller model, or lower data.max_completion_tokens."
