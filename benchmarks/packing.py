"""How full the batches of E2E are, with an example in each row and with several.

    python -m benchmarks.packing --data=E2E --tokenizer=GPT2

Counts, no times: they are the same on every machine. `E2E` and `GPT2` are the folders of the data and the tokenizer.
"""

import argparse

from hut_jax.data.batching import Batches
from hut_jax.data.e2e.csv_files import find_files, read_records
from hut_jax.data.e2e.dataset import encode_e2e
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.tasks.config import E2EData


def main():
    """The benchmark; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of E2E's files")
    parser.add_argument("--tokenizer", required=True, help="a folder or hub name")
    parser.add_argument("--pack", default="0,144,256,512", help="values of config.data.pack")
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    args = parser.parse_args()
    records = read_records(find_files(args.data)["train"])
    examples = encode_e2e(records, load_tokenizer(args.tokenizer), E2EData().max_length).sequences
    print("| `config.data.pack` | rows | positions with a token | label slots with a label | shapes to compile |")
    print("|---|---|---|---|---|")
    for pack in map(int, args.pack.split(",")):
        section = E2EData(pack=pack)
        rows = section.rows(examples, seed=0)
        report = Batches(rows, section.training(section.batching(args.batch, seed=0))).report()
        tokens, slots = (f"{100 * share:.0f} %" for share in (report.real_tokens, report.real_slots))
        print(f"| {pack} | {len(rows):,} | {tokens} | {slots} | {len(report.shapes)} |")


if __name__ == "__main__":
    main()
