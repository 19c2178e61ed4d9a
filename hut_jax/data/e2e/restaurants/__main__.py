"""Made-up restaurants in the format of E2E, for training without the real data.

python -m hut_jax.data.e2e.restaurants --output DIR
"""

from collections.abc import Sequence

from hut_jax.core import cli
from hut_jax.data.e2e.csv_files import FILES
from hut_jax.data.e2e.restaurants.files import COUNTS, write_restaurants


def main(argv: Sequence[str]) -> None:
    """The command: write the three files."""
    parser = cli.Parser("hut_jax.data.e2e.restaurants", __doc__ or "")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for the three CSV files")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all random choices (default: 0)")
    for split, count in COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"meaning representations (default: {count})")
    args = parser.parse_args(argv)
    write_restaurants(args.output, seed=args.seed, train=args.train, validation=args.validation, test=args.test)
    print(f"{args.output}: {', '.join(FILES.values())}")


if __name__ == "__main__":
    cli.run(main)
