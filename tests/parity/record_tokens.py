"""Record how the tokenizers library cuts verify's texts with the vocabulary of Meta's models.

    python -m tests.parity.record_tokens FOLDER

FOLDER has Meta's tokenizer.json. Writes llamacli/verify/recorded_ids.json.
"""

import json
import sys
from pathlib import Path

from convert.small_files import read_json
from convert.tokenizer import parse_tokenizer
from llamacli.verify.tokenization import RECORDED, TEXTS, fingerprint, reference


def main() -> None:
    path = Path(sys.argv[1]) / "tokenizer.json"
    tokenize = reference(path)
    if tokenize is None:
        sys.exit("the tokenizers library is not installed")
    recorded = {
        "vocabulary": fingerprint(parse_tokenizer(read_json(path))),
        "ids": [list(tokenize(text)) for text in TEXTS],
    }
    RECORDED.write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
