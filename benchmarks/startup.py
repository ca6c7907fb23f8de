"""How long the commands take that need no network: `--help`, `models list`, and a bare Python.

python benchmarks/startup.py [--runs 10]
"""

from __future__ import annotations

import argparse
import sys

from paired import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    compare(
        {
            "python -c pass": [sys.executable, "-c", "pass"],
            "stemsplit --help": ["stemsplit", "--help"],
            "stemsplit models list": ["stemsplit", "models", "list"],
            "import torch": [sys.executable, "-c", "import torch"],
        },
        runs=parser.parse_args().runs,
    )


if __name__ == "__main__":
    main()
