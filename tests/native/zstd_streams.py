# SPDX-License-Identifier: Apache-2.0
"""Writes zstd_streams.inc and lz4_blocks.inc: small real ones, which softmod_unpack.c damages.

Needs the dev group's zstandard and lz4; run it by hand when they are to change.
"""

from __future__ import annotations

import random
from pathlib import Path

import lz4.block
import zstandard

HERE = Path(__file__).parent


def sources() -> dict[str, bytes]:
    dice = random.Random(20261125)
    kernels = (HERE.parent / "contract" / "soft_mod_kernels.ptx").read_bytes()
    skewed = bytes(dice.choices(range(64), [1 / (i + 1) ** 2 for i in range(64)], k=3000))
    return {
        "ptx": kernels,
        "runs": b"a" * 5000 + dice.randbytes(300) + b"a" * 20000,
        "skewed": skewed,
        "far": dice.randbytes(700) + bytes(9000) + skewed[:500],
    }


def streams() -> dict[str, tuple[int, bytes]]:
    out = {}
    for name, data in sources().items():
        for level in (1, 3, 19):
            packer = zstandard.ZstdCompressor(level=level, write_checksum=True)
            out[f"{name}, level {level}"] = (len(data), packer.compress(data))
    data = sources()["ptx"]
    shape = zstandard.ZstdCompressionParameters.from_level(
        19, window_log=10, write_checksum=True, write_content_size=False
    )
    packer = zstandard.ZstdCompressor(compression_params=shape).compressobj()
    out["ptx, a window of 1 KiB"] = (len(data), packer.compress(data) + packer.flush())
    two = [packed for _, packed in list(out.values())[:2]]
    skippable = (0x184D2A57).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"other"
    out["two frames, one to skip"] = (2 * len(data), two[0] + skippable + two[1])
    return out


def write(path: Path, rows: dict[str, tuple[int, bytes]]) -> None:
    lines = ["/* SPDX-License-Identifier: Apache-2.0", " *", " * Written by zstd_streams.py. */"]
    for name, (size, packed) in rows.items():
        body = ",".join(str(byte) for byte in packed)
        lines.append(f'{{"{name}", {size}, {len(packed)}, (const unsigned char[]){{{body}}}}},')
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    write(HERE / "zstd_streams.inc", streams())
    blocks = {
        name: (len(data), lz4.block.compress(data, mode="high_compression", store_size=False))
        for name, data in sources().items()
    }
    write(HERE / "lz4_blocks.inc", blocks)


if __name__ == "__main__":
    main()
