"""Find the near duplicates among the files of a folder, in memory.

python examples/dedup_folder.py ~/src/project '*.py'

`codeshell dedup FOLDER -o OUT` does the same for corpora that do not fit into memory, and writes the files that stay.
"""

import sys
import sysconfig
from pathlib import Path

from codeshell.dedup import find_duplicates

# Without an argument: the Python standard library, which every reader of this file has.
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")).expanduser()
PATTERN = sys.argv[2] if len(sys.argv) > 2 else "[a-z]*.py"


def main() -> None:
    paths = [
        path for path in sorted(FOLDER.glob(f"**/{PATTERN}")) if path.is_file() and "site-packages" not in path.parts
    ]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]

    # A document is a duplicate if its Jaccard similarity (on runs of five tokens) with a document that stays
    # reaches the threshold. The result is an Arrow table with one row per duplicate.
    duplicates = find_duplicates(texts, threshold=0.7)

    size = sum(map(len, texts))
    dropped = sum(len(texts[row]) for row in duplicates["index"].to_pylist())
    print(f"{FOLDER}: {len(paths)} files, {size / 1e6:.1f} million characters")
    print(
        f"{duplicates.num_rows} are near duplicates; without them {(size - dropped) / 1e6:.1f} million characters stay"
    )
    for row in duplicates.slice(0, 10).to_pylist():
        dropped_path, kept_path = paths[row["index"]], paths[row["kept_index"]]
        print(f"  {row['jaccard']:.2f}  {dropped_path.relative_to(FOLDER)}  resembles  {kept_path.relative_to(FOLDER)}")


if __name__ == "__main__":
    main()
