"""Rate of matrix products on this machine, as the bound for training."""

from __future__ import annotations

import time

import torch
from torch.nn import functional

from speed_parts.result import arguments, give


def main() -> None:
    """Measure several shapes in one dtype."""
    asked = arguments()
    dtype = torch.bfloat16 if asked["dtype"] == "bf16" else torch.float32
    hidden, inner, heads = asked["hidden"], asked["intermediate"], asked["key_width"]
    rows = asked["rows"]
    shapes = {
        "2048 square": (2048, 2048, 2048),
        "gate or up": (rows, hidden, inner),
        "down": (rows, inner, hidden),
        "query or output": (rows, hidden, hidden),
        "key or value": (rows, hidden, heads),
        "logits": (rows, hidden, asked["vocabulary"]),
    }
    rates = {name: _rates(*shape, dtype, asked["seconds"]) for name, shape in shapes.items()}
    give(
        gflops=max(mean for mean, _ in rates.values()),
        peak_gflops=max(best for _, best in rates.values()),
        shapes={name: mean for name, (mean, _) in rates.items()},
        threads=torch.get_num_threads(),
    )


def _rates(m: int, k: int, n: int, dtype: torch.dtype, seconds: float) -> tuple[float, float]:
    """Return the mean rate and the best rate of many products in GFLOP/s.

    The load by other virtual machines varies. Training is compared with the mean, since its own
    rate is a mean too.
    """
    x, weight = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    times: list[float] = []
    with torch.inference_mode():
        functional.linear(x, weight)
        while len(times) < 3 or sum(times) < seconds:
            began = time.perf_counter()
            functional.linear(x, weight)
            times.append(time.perf_counter() - began)
    gflop = 2 * m * k * n / 1e9
    return round(gflop * len(times) / sum(times), 1), round(gflop / min(times), 1)


if __name__ == "__main__":
    main()
