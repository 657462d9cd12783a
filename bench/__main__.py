"""python -m bench: every measurement, one after the other, as Markdown on stdout."""

import subprocess
import sys

MEASUREMENTS = {
    "Start of `--help`": ["bench.help"],
    "Quantization kernels": ["bench.quantizers"],
    "Conversion, two layers of 8B": ["bench.conversion", "--shape", "8b", "--layers", "2"],
    "Decoding, 1B shape": ["bench.decode"],
    "A long instruction kept on disk, 1B shape": ["bench.prompt_cache"],
    "Many prompts, 1B shape": ["bench.batch"],
    "The tenth turn of a chat, 1B shape": ["bench.chat_turns"],
    "A resumed chat of 4,000 tokens, 1B shape": ["bench.resume"],
}


def main() -> None:
    for title, module in MEASUREMENTS.items():
        print(f"\n## {title}\n\n`python -m {' '.join(module)}`\n", flush=True)
        subprocess.run([sys.executable, "-m", *module], check=True)


if __name__ == "__main__":
    main()
