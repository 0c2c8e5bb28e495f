"""One decode step by other means than ours: attention's kernels and cache layouts, and the whole step compiled. One core, a minute or two each:

    OMP_NUM_THREADS=1 python -m bench.decode_step attention small
    OMP_NUM_THREADS=1 python -m bench.decode_step compiled tiny --attention products --cpp_wrapper

`compiled` needs a C++ compiler. Its step is a Llama's, with random weights and every slot at the same position; ours is the fused decoder's on the
same shapes. Processor time of one thread, medians of turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from bench.generation import make_model
from bench.versus.cases import GENERATION_PROMPT, NEW_TOKENS, ROLLOUTS, SIZES, Size
from prefloop.rollout.families import read_weights
from prefloop.rollout.fused import FusedDecoder
from prefloop.runtime.tune import tune

COLUMNS = GENERATION_PROMPT + NEW_TOKENS
"""Of a cache made for all that is to come."""


def turns(ways: Mapping[str, Callable[[], object]], repeats: int, calls: int) -> dict[str, float]:
    """Seconds of processor time a call, the median of turns, the first not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            began = time.process_time()
            for _ in range(calls):
                way()
            seconds[name].append((time.process_time() - began) / calls)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def attention(size: Size, columns: int, repeats: int) -> dict[str, float]:
    """Of a layer, over so many columns, in a cache of exactly these or in part of one of `COLUMNS`."""
    n, heads, width, layers = ROLLOUTS, size.heads, size.hidden // size.heads, size.layers
    query = torch.randn(n * heads, 1, width)
    mask, mask4 = torch.zeros(n * heads, 1, columns), torch.zeros(n, 1, 1, columns)
    tight, wide = (
        torch.randn(layers, 2, n, heads, columns, width),
        torch.randn(layers, 2, n, heads, COLUMNS, width),
    )
    turned = torch.randn(layers, n, heads, width, columns)

    def products(keys: Tensor, values: Tensor) -> Tensor:
        scores = torch.baddbmm(mask, query, keys.flatten(0, 1).transpose(1, 2), alpha=width**-0.5)
        return torch.bmm(torch.softmax(scores, -1), values.flatten(0, 1))

    def by_columns(keys: Tensor, values: Tensor) -> Tensor:
        return torch.bmm(
            torch.softmax(torch.baddbmm(mask, query, keys.flatten(0, 1)), -1), values.flatten(0, 1)
        )

    def fused(keys: Tensor, values: Tensor) -> Tensor:
        return scaled_dot_product_attention(query.view(n, heads, 1, width), keys, values, attn_mask=mask4)

    def sums(keys: Tensor, values: Tensor) -> Tensor:
        shares = torch.softmax((keys * query.view(n, heads, 1, width)).sum(-1), -1)
        return (values * shares.unsqueeze(-1)).sum(2)

    def over(way: Callable[[Tensor, Tensor], Tensor], cache: Tensor) -> Callable[[], object]:
        return lambda: [way(pair[0, :, :, :columns], pair[1, :, :, :columns]) for pair in cache]

    ways = {
        "products, part of the cache": over(products, wide),
        "products, whole cache": over(products, tight),
        "products, keys turned": lambda: [
            by_columns(keys, pair[1]) for keys, pair in zip(turned, tight, strict=True)
        ],
        "fused, part of the cache": over(fused, wide),
        "fused, whole cache": over(fused, tight),
        "sums, whole cache": over(sums, tight),
    }
    return {name: seconds / layers for name, seconds in turns(ways, repeats, 5).items()}


class PlainStep(nn.Module):
    """A Llama's decode step as one would write it for a compiler, with joined matrices and random weights."""

    def __init__(self, size: Size, attention: str, columns: int) -> None:
        super().__init__()
        self.width, self.columns, self.attention = size.hidden // size.heads, columns, attention
        self.heads = size.heads
        shapes = {
            "qkv": (3 * size.hidden, size.hidden),
            "output": (size.hidden, size.hidden),
            "gate_up": (2 * size.ffn, size.hidden),
            "down": (size.hidden, size.ffn),
        }
        self.layers = nn.ModuleList(
            nn.ParameterDict({name: torch.randn(shape) * 0.02 for name, shape in shapes.items()})
            for _ in range(size.layers)
        )
        self.embed = nn.Parameter(torch.randn(size.vocabulary, size.hidden))
        self.head = nn.Parameter(torch.randn(size.vocabulary, size.hidden) * 0.02)
        self.norm_weight = nn.Parameter(torch.ones(size.hidden))
        shape = (ROLLOUTS, size.heads, columns, self.width)
        self.keys = [torch.zeros(shape) for _ in self.layers]
        self.values = [torch.zeros(shape) for _ in self.layers]
        self.cos, self.sin = torch.randn(2, columns, 1, self.width // 2)

    def forward(self, tokens: Tensor, positions: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Logits."""
        x, cos, sin = self.embed[tokens], self.cos[positions], self.sin[positions]
        hidden = torch.arange(self.columns) > positions[:, None]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None, None]
        rows = torch.arange(len(tokens))
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ParameterDict)
            heads = linear(self.norm(x), layer["qkv"]).view(len(x), -1, self.width)
            one, two = heads[:, : 2 * self.heads].chunk(2, -1)
            turned = torch.cat([one * cos - two * sin, two * cos + one * sin], -1)
            keys[index][rows, :, positions] = turned[:, self.heads :]
            values[index][rows, :, positions] = heads[:, 2 * self.heads :]
            out = self.attend(turned[:, : self.heads, None], keys[index], values[index], mask)
            x = x + linear(out.reshape(len(x), -1), layer["output"])
            gate, up = linear(self.norm(x), layer["gate_up"]).chunk(2, -1)
            x = x + linear(silu(gate) * up, layer["down"])
        return linear(self.norm(x), self.head)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """One query a head."""
        if self.attention == "fused":
            return scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        if self.attention == "products":
            return torch.softmax(query @ keys.mT * self.width**-0.5 + mask, -1) @ values
        shares = torch.softmax((query * keys).sum(-1) * self.width**-0.5 + mask[:, 0], -1)
        return (shares.unsqueeze(-1) * values).sum(2)

    def norm(self, x: Tensor) -> Tensor:
        """Root-mean-square norm."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm_weight


def compiled(size: str, attention: str, columns: int, cpp_wrapper: bool, repeats: int) -> None:
    """Print how long compiling takes, and a step of both."""
    import torch._inductor.config as inductor

    inductor.freezing, inductor.cpp_wrapper = True, cpp_wrapper  # pyright: ignore[reportAttributeAccessIssue]
    weights = read_weights(make_model(size), columns=columns)
    assert weights is not None
    with torch.no_grad():
        plain = PlainStep(SIZES[size], attention, columns).eval()
        fast = torch.compile(plain, dynamic=False, fullgraph=True)
        decoder = FusedDecoder(weights, slots=ROLLOUTS, columns=columns)
        tokens, positions = torch.arange(ROLLOUTS), torch.full((ROLLOUTS,), columns - 1)
        began = time.perf_counter()
        fast(tokens, positions, plain.keys, plain.values)
        print(f"compiled in {time.perf_counter() - began:.0f} s, for this shape alone")
        ways = {
            "compiled": lambda: fast(tokens, positions, plain.keys, plain.values),
            "ours": lambda: decoder.logits(tokens, positions, columns),
        }
        for name, seconds in turns(ways, repeats, 10).items():
            print(f"{size} {attention} {columns} columns {name:9s} {1e3 * seconds:6.2f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("attention", "compiled"))
    parser.add_argument("size", choices=tuple(SIZES))
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--attention", choices=("products", "fused", "sums"), default="products")
    parser.add_argument("--cpp_wrapper", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    tune()
    if given.what == "compiled":
        compiled(given.size, given.attention, given.columns, given.cpp_wrapper, given.repeats)
        return
    with torch.inference_mode():
        for name, seconds in attention(SIZES[given.size], given.columns, given.repeats).items():
            print(f"{given.size} {given.columns} columns {name:28s} {1e6 * seconds:6.0f} us a layer")


if __name__ == "__main__":
    main()
